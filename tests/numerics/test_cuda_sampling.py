"""Sampling on cards against torch's, which tests/unit/test_sampler.py holds against numpy."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy
import pytest
import torch
from linear_harness import Execute
from sampling_cases import random_logits, random_sequences

from pascaline.core.errors import ShapeError
from pascaline.engine.sampler import Sampled, sample_by_torch, uniform
from pascaline.engine.sampling_call import CallMaker, results_of
from pascaline.engine.sampling_params import MAX_LOGPROBS, SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cuda import sampling

INFINITY = math.inf


def sample_on_card(
    logits: torch.Tensor, sequences: list[Sequence], execute: Execute, margin: int = 0
) -> list[Sampled]:
    """By the kernels; rows lie `margin` numbers apart."""
    rows, vocabulary = logits.shape
    stride = vocabulary + margin
    wide = torch.full((rows, stride), INFINITY)
    wide[:, :vocabulary] = logits
    call = CallMaker().make(sequences)
    reports = call.reports
    buffers = {
        "logits": wide.numpy().reshape(-1)[: rows * stride - margin].copy(),
        "lines": call.lines,
        "ids": numpy.empty(rows, numpy.int64),
        "choices": numpy.empty(rows, sampling.CHOICE),
        "ranges": numpy.empty((len(call.lines), 2), numpy.float32),
        "reports": numpy.zeros(max(1, reports), sampling.REPORT),
    }
    if len(call.shaped_rows):
        buffers |= {"shaped_rows": call.shaped_rows, "changes": call.changes}
        buffers["shaped"] = numpy.empty((len(call.shaped_rows), vocabulary), numpy.float32)
        execute(
            sampling.plan_shape_logits(len(call.shaped_rows), vocabulary, stride), buffers, ("shaped",)
        )
    execute(
        sampling.plan_choose_tokens(len(call.lines), vocabulary, stride), buffers, ("ids", "choices", "ranges")
    )
    if len(call.jobs):
        buffers["jobs"] = call.jobs
        plan = sampling.plan_filter_tokens(len(call.jobs), vocabulary, stride)
        execute(plan, buffers, (), updates=("ids", "choices", "reports"))
    assert buffers["ids"].tolist() == buffers["choices"]["token"].tolist()
    return results_of(sequences, vocabulary, buffers["choices"], buffers["reports"])


def compare(ours: list[Sampled], theirs: list[Sampled], sequences: list[Sequence]) -> None:
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


@pytest.mark.parametrize("seed", range(16))
def test_every_choice_is_torchs(seed: int, execute: Execute) -> None:
    shuffle = random.Random(seed)
    vocabulary = shuffle.choice([1, 2, 15, 65, 511, 1000, 4096, 4099, 8193])
    logits = random_logits(shuffle, 12, vocabulary)
    sequences = random_sequences(shuffle, 12, vocabulary)
    compare(
        sample_on_card(logits, sequences, execute, margin=shuffle.choice([0, 3])),
        sample_by_torch(logits, sequences),
        sequences,
    )
