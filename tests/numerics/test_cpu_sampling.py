"""Native sampling against torch's, which tests/unit/test_sampler.py holds against numpy."""

from __future__ import annotations

import math
import random

import pytest
import torch
from native_libraries import NEEDS_LIBRARY, RUNNABLE, load

from pascaline.engine.sampler import Sampled, sample, sample_by_torch
from pascaline.engine.sampling_params import MAX_LOGPROBS, SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.views import MAX_REPORTED

pytestmark = NEEDS_LIBRARY

ROWS = 24
INFINITY = math.inf


def random_params(shuffle: random.Random, vocabulary: int) -> SamplingParams:
    """Any filters, mostly not all at once, and temperatures of every size."""
    return SamplingParams(
        temperature=shuffle.choice([0.0, 1e-300, 1e-6, 0.1, 0.5, 0.8, 1.0, 1.3, 3.0, 50.0, 100.0]),
        top_k=shuffle.choice([0, 0, 0, 1, 2, 7, 40, 300, 10_000]),
        top_p=shuffle.choice([1.0, 1.0, 0.999999, 0.95, 0.6, 0.1, 1e-9]),
        min_p=shuffle.choice([0.0, 0.0, 0.0, 1e-9, 0.05, 0.4, 1.0]),
        repetition_penalty=shuffle.choice([1.0, 1.0, 1.0, 1.3]),
        frequency_penalty=shuffle.choice([0.0, 0.0, 0.7]),
        logit_bias=shuffle.choice([{}, {}, {0: 5.0}]),
        logprobs=shuffle.choice([None, None, 0, 5, 20]) if vocabulary >= MAX_LOGPROBS else None,
    )


def random_logits(shuffle: random.Random, vocabulary: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shuffle.randrange(2**31))
    logits = torch.randn(ROWS, vocabulary, generator=generator) * shuffle.choice([0.01, 1.0, 4.0, 30.0])
    kind = shuffle.randrange(5)
    if kind == 0:
        logits = logits.round()  # ties
    if kind == 1:
        logits[:, torch.rand(vocabulary, generator=generator) < 0.7] = -INFINITY
        logits[:, shuffle.randrange(vocabulary)] = 1.0
    if kind == 2:
        logits[:, : 1 + vocabulary // 50] += 15  # few that are likely
    return logits


def random_sequences(shuffle: random.Random, vocabulary: int) -> list[Sequence]:
    sequences = []
    for _ in range(ROWS):
        prompt = [shuffle.randrange(vocabulary) for _ in range(3)]
        sequence = Sequence(
            1, 0, 0, random_params(shuffle, vocabulary), shuffle.randrange(2**40), prompt, len(prompt)
        )
        for _ in range(shuffle.randrange(4)):
            sequence.append(shuffle.randrange(vocabulary))
        sequences.append(sequence)
    return sequences


@pytest.mark.parametrize("seed", range(60))
def test_every_choice_is_torchs(seed: int) -> None:
    """1440 rows; tokens are the same, log-probabilities within fp32's rounding."""
    shuffle = random.Random(seed)
    vocabulary = shuffle.choice([1, 2, 15, 16, 63, 64, 65, 511, 513, 1000, 4099, 20_001])
    logits = random_logits(shuffle, vocabulary)
    sequences = random_sequences(shuffle, vocabulary)
    for row, (ours, theirs) in enumerate(
        zip(sample(logits, sequences), sample_by_torch(logits, sequences), strict=True)
    ):
        assert (ours.token_id, ours.is_finite) == (theirs.token_id, True), (row, sequences[row].params)
        assert (ours.logprob is None) == (theirs.logprob is None)
        if theirs.logprob is None or theirs.top_logprobs is None or ours.top_logprobs is None:
            continue
        assert ours.logprob == pytest.approx(theirs.logprob, abs=2e-5, rel=1e-6)
        values = [value for _, value in theirs.top_logprobs]
        assert [value for _, value in ours.top_logprobs] == pytest.approx(values, abs=2e-5, rel=1e-6)
        # Equals come in the order of their ids.
        assert ours.top_logprobs == sorted(ours.top_logprobs, key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("seed", range(6))
def test_choices_depend_on_nothing_but_the_row(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instruction set, number of threads, and rows beside it: the same token and the same bits."""
    shuffle = random.Random(1000 + seed)
    logits = random_logits(shuffle, 4099)
    sequences = random_sequences(shuffle, 4099)
    expected: list[Sampled] | None = None
    for instructions in RUNNABLE:
        library = load(instructions)
        monkeypatch.setattr(native, "library", lambda library=library: library)
        for threads in (1, 2, 5):
            library.use_threads(threads)
            found = sample(logits, sequences)
            expected = expected or found
            assert found == expected
        library.use_threads(1)
        alone = [sample(logits[row : row + 1], sequences[row : row + 1])[0] for row in range(ROWS)]
        assert alone == expected


def test_rows_that_are_no_numbers_are_told() -> None:
    """They crash nothing, and the others are chosen from as ever."""
    good = torch.randn(200)
    rows = [good.clone() for _ in range(8)]
    rows[1][137] = math.nan
    rows[2][:] = math.nan
    rows[3][5] = INFINITY
    rows[4][:] = -INFINITY
    rows[5][:-1] = -INFINITY
    rows[6][199] = math.nan
    rows[7][::2] = math.nan
    for params in (
        SamplingParams(temperature=0.0),
        SamplingParams(),
        SamplingParams(top_k=3),
        SamplingParams(top_k=150),
        SamplingParams(top_p=0.9),
        SamplingParams(top_p=0.999999, logprobs=20),
        SamplingParams(min_p=0.1),
    ):
        sequences = [Sequence(1, 0, 0, params, 7, [1], 1) for _ in rows]
        found = sample(torch.stack(rows), sequences)
        assert [item.is_finite for item in found] == [True, False, False, False, False, True, False, False]
        assert all(0 <= item.token_id < 200 for item in found)
        assert found[0] == sample(good[None], sequences[:1])[0]
        assert found[5].token_id == 199
        torchs = sample_by_torch(torch.stack(rows), sequences)
        assert [item.is_finite for item in torchs] == [item.is_finite for item in found]


def test_rows_of_another_stride() -> None:
    logits = torch.randn(50, 40).T
    greedy = [Sequence(1, 0, 0, SamplingParams(temperature=0.0), 0, [1], 1)] * 40
    assert [item.token_id for item in sample(logits, greedy)] == logits.argmax(-1).tolist()


def test_there_is_room_for_all_that_may_be_asked_for() -> None:
    assert MAX_REPORTED == MAX_LOGPROBS
