"""Random rows of logits and sequences for the samplers' tests, and what choices must have in common."""

from __future__ import annotations

import math
import random

import pytest
import torch

from pascaline.engine.sampler import Sampled
from pascaline.engine.sampling_params import MAX_LOGPROBS, SamplingParams
from pascaline.engine.sequence import Sequence


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


def random_logits(shuffle: random.Random, rows: int, vocabulary: int) -> torch.Tensor:
    """(rows, vocabulary): of any spread; some tied, some mostly −infinity, some with few that are likely."""
    generator = torch.Generator().manual_seed(shuffle.randrange(2**31))
    logits = torch.randn(rows, vocabulary, generator=generator) * shuffle.choice([0.01, 1.0, 4.0, 30.0])
    kind = shuffle.randrange(5)
    if kind == 0:
        logits = logits.round()
    if kind == 1:
        logits[:, torch.rand(vocabulary, generator=generator) < 0.7] = -math.inf
        logits[:, shuffle.randrange(vocabulary)] = 1.0
    if kind == 2:
        logits[:, : 1 + vocabulary // 50] += 15
    return logits


def random_sequences(shuffle: random.Random, rows: int, vocabulary: int) -> list[Sequence]:
    """One a row, with prompts of 3 tokens and outputs of up to 3."""
    sequences = []
    for _ in range(rows):
        prompt = [shuffle.randrange(vocabulary) for _ in range(3)]
        sequence = Sequence(
            1, 0, 0, random_params(shuffle, vocabulary), shuffle.randrange(2**40), prompt, len(prompt)
        )
        for _ in range(shuffle.randrange(4)):
            sequence.append(shuffle.randrange(vocabulary))
        sequences.append(sequence)
    return sequences


def rows_that_are_no_numbers(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A row of logits, and eight of it: rows 0 and 5 can be chosen from, of row 5 the last token alone."""
    good = torch.randn(vocabulary, generator=torch.Generator().manual_seed(6))
    rows = good.repeat(8, 1)
    rows[1, 137] = math.nan
    rows[2] = math.nan
    rows[3, 5] = math.inf
    rows[4] = -math.inf
    rows[5, :-1] = -math.inf
    rows[6, -1] = math.nan
    rows[7, ::2] = math.nan
    return good, rows


def compare_sampled(ours: list[Sampled], theirs: list[Sampled], sequences: list[Sequence]) -> None:
    """Tokens are the same, log-probabilities within fp32's rounding."""
    for row, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert (mine.token_id, mine.is_finite) == (other.token_id, True), (row, sequences[row].params)
        assert (mine.logprob is None) == (other.logprob is None)
        if mine.top_logprobs is None or other.top_logprobs is None:
            continue
        assert mine.logprob == pytest.approx(other.logprob, abs=2e-5, rel=1e-6)
        values = [value for _, value in other.top_logprobs]
        assert [value for _, value in mine.top_logprobs] == pytest.approx(values, abs=2e-5, rel=1e-6)
        # Equals come in the order of their ids.
        assert mine.top_logprobs == sorted(mine.top_logprobs, key=lambda pair: (-pair[1], pair[0]))
