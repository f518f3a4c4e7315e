"""The engine's sampler on a card, several steps under way, against torch's on the CPU; needs --gpu."""

from __future__ import annotations

import random

import pytest
import torch
from sampling_cases import compare_sampled, random_logits, random_sequences

from pascaline.engine.card_sampler import CardSampler
from pascaline.engine.sampler import Sampled, Samples, sample_by_torch
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cuda.kernel_set import KernelSet

ROWS, VOCABULARY = 12, 151_936


@pytest.fixture(scope="module")
def kernels(request: pytest.FixtureRequest) -> KernelSet:
    if not request.config.getoption("--gpu"):
        pytest.skip("needs a card: --gpu")
    return KernelSet(torch.device("cuda"))


def test_steps_whose_results_are_read_one_behind(kernels: KernelSet) -> None:
    """Rows of every kind, sequences that grow, numbers of rows that change, and steps without any."""
    shuffle = random.Random(1)
    sampler = CardSampler(kernels, ROWS, VOCABULARY)
    sequences = random_sequences(shuffle, ROWS, VOCABULARY)
    before: tuple[Samples, list[Sampled], list[Sequence]] | None = None
    for rows in (ROWS, 3, 1, 0, ROWS, 5, ROWS):
        logits, some = random_logits(shuffle, ROWS, VOCABULARY)[:rows], sequences[:rows]
        expected = sample_by_torch(logits, some) if rows else []
        samples = sampler.launch(logits.cuda(), some)
        if before is not None:
            compare_sampled(before[0].read(), *before[1:])
        before = samples, expected, some
        chosen = sampler.ids[:rows].tolist()
        assert chosen == [item.token_id for item in expected]
        for sequence, token in zip(some, chosen, strict=True):
            sequence.append(token)
    assert before is not None
    compare_sampled(before[0].read(), *before[1:])


def test_rows_of_drafts(kernels: KernelSet) -> None:
    shuffle = random.Random(2)
    params = [
        SamplingParams(temperature=0.0),
        SamplingParams(top_p=0.9, logprobs=2),
        SamplingParams(temperature=0.5),
    ]
    sequences = [Sequence(1, 0, 0, each, seed, [1], 1) for seed, each in enumerate(params)]
    drafted = [sequence for sequence, rows in zip(sequences, (8, 1, 3), strict=True) for _ in range(rows)]
    ahead = [*range(8), 0, *range(3)]
    logits = random_logits(shuffle, ROWS, VOCABULARY)
    found = CardSampler(kernels, ROWS, VOCABULARY).launch(logits.cuda(), drafted, ahead).read()
    compare_sampled(found, sample_by_torch(logits, drafted, ahead), drafted)


def test_part_of_wider_rows_of_logits(kernels: KernelSet) -> None:
    logits = torch.randn(4, 5000, device="cuda")[:, :4099]
    sequences = [Sequence(1, 0, 0, SamplingParams(top_p=0.9), seed, [1], 1) for seed in range(4)]
    found = CardSampler(kernels, 4, 4099).launch(logits, sequences).read()
    compare_sampled(found, sample_by_torch(logits.cpu().contiguous(), sequences), sequences)
