"""Native sampling against torch's, which tests/unit/test_sampler.py holds against numpy."""

from __future__ import annotations

import random

import pytest
import torch
from native_libraries import NEEDS_LIBRARY, RUNNABLE, load
from sampling_cases import compare_sampled, random_logits, random_sequences, rows_that_are_no_numbers

from pascaline.engine.sampler import Sampled, sample, sample_by_torch
from pascaline.engine.sampling_params import MAX_LOGPROBS, SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cpu import native
from pascaline.kernels.cpu.views import MAX_REPORTED

pytestmark = NEEDS_LIBRARY

ROWS = 24


@pytest.mark.parametrize("seed", range(60))
def test_every_choice_is_torchs(seed: int) -> None:
    """1440 rows; tokens are the same, log-probabilities within fp32's rounding."""
    shuffle = random.Random(seed)
    vocabulary = shuffle.choice([1, 2, 15, 16, 63, 64, 65, 511, 513, 1000, 4099, 20_001])
    logits = random_logits(shuffle, ROWS, vocabulary)
    sequences = random_sequences(shuffle, ROWS, vocabulary)
    compare_sampled(sample(logits, sequences), sample_by_torch(logits, sequences), sequences)


@pytest.mark.parametrize("seed", range(6))
def test_choices_depend_on_nothing_but_the_row(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instruction set, number of threads, and rows beside it: the same token and the same bits."""
    shuffle = random.Random(1000 + seed)
    logits = random_logits(shuffle, ROWS, 4099)
    sequences = random_sequences(shuffle, ROWS, 4099)
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
    good, rows = rows_that_are_no_numbers(200)
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
        found = sample(rows, sequences)
        assert [item.is_finite for item in found] == [True, False, False, False, False, True, False, False]
        assert all(0 <= item.token_id < 200 for item in found)
        assert found[0] == sample(good[None], sequences[:1])[0]
        assert found[5].token_id == 199
        torchs = sample_by_torch(rows, sequences)
        assert [item.is_finite for item in torchs] == [item.is_finite for item in found]


def test_rows_of_another_stride() -> None:
    logits = torch.randn(50, 40).T
    greedy = [Sequence(1, 0, 0, SamplingParams(temperature=0.0), 0, [1], 1)] * 40
    assert [item.token_id for item in sample(logits, greedy)] == logits.argmax(-1).tolist()


def test_there_is_room_for_all_that_may_be_asked_for() -> None:
    assert MAX_REPORTED == MAX_LOGPROBS
