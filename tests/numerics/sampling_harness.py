"""Sampling's launches on rows of logits, and torch's choices, which they have to make."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy
import torch
from linear_harness import Execute
from sampling_cases import compare_sampled, random_logits, random_sequences

from pascaline.engine.sampler import Sampled, sample_by_torch
from pascaline.engine.sampling_call import CallMaker, results_of
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cuda import sampling
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.kernels.cuda.take_sampled import plan_take_sampled


@dataclass(frozen=True)
class CardSampling:
    """Choices for `sequences` from `logits` (S, V), whose rows lie `margin` numbers apart.

    `ahead` : see `engine.sampler.sample`.
    """

    logits: torch.Tensor
    sequences: list[Sequence]
    margin: int = 0
    ahead: list[int] | None = None

    @property
    def stride(self) -> int:
        return self.logits.shape[1] + self.margin

    @property
    def plans(self) -> tuple[LaunchPlan, ...]:
        """Those that there is work for, in the order of launches."""
        call, vocabulary = CallMaker().make(self.sequences, self.ahead), self.logits.shape[1]
        shaped, lines, jobs = len(call.shaped_rows), len(call.lines), len(call.jobs)
        return (
            *((sampling.plan_shape_logits(shaped, vocabulary, self.stride),) if shaped else ()),
            sampling.plan_choose_tokens(lines, vocabulary, self.stride),
            *((sampling.plan_filter_tokens(jobs, vocabulary, self.stride),) if jobs else ()),
        )

    def sample(self, execute: Execute) -> list[Sampled]:
        """By the kernels."""
        rows, vocabulary = self.logits.shape
        wide = torch.full((rows, self.stride), math.inf)
        wide[:, :vocabulary] = self.logits
        call = CallMaker().make(self.sequences, self.ahead)
        buffers = {
            "logits": wide.numpy().reshape(-1)[: rows * self.stride - self.margin].copy(),
            "lines": call.lines,
            "ids": numpy.empty(rows, numpy.int64),
            "choices": numpy.empty(rows, sampling.CHOICE),
            "ranges": numpy.empty((len(call.lines), 2), numpy.float32),
            "reports": numpy.zeros(max(1, call.reports), sampling.REPORT),
        }
        if len(call.shaped_rows):
            buffers |= {"shaped_rows": call.shaped_rows, "changes": numpy.concatenate(call.changes)}
            buffers["shaped"] = numpy.empty((len(call.shaped_rows), vocabulary), numpy.float32)
        if len(call.jobs):
            buffers["jobs"] = call.jobs
        written: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
            "shape_logits": (("shaped",), ()),
            "choose_tokens": (("ids", "choices", "ranges"), ()),
            "filter_tokens": ((), ("ids", "choices", "reports")),
        }
        for plan in self.plans:
            outputs, updates = written[plan.specialisation.entry]
            execute(plan, buffers, outputs, updates=updates)
        assert buffers["ids"].tolist() == buffers["choices"]["token"].tolist()
        return results_of(self.sequences, vocabulary, buffers["choices"], buffers["reports"])

    def check(self, execute: Execute) -> None:
        """Every choice is torch's."""
        expected = sample_by_torch(self.logits, self.sequences, self.ahead)
        compare_sampled(self.sample(execute), expected, self.sequences)


def random_sampling(seed: int) -> CardSampling:
    """Of a vocabulary, logits and settings of any kind."""
    shuffle = random.Random(seed)
    vocabulary = shuffle.choice([1, 2, 15, 65, 511, 1000, 4096, 4099, 8193])
    logits = random_logits(shuffle, 12, vocabulary)
    sequences = random_sequences(shuffle, 12, vocabulary)
    return CardSampling(logits, sequences, margin=shuffle.choice([0, 3]))


def check_taken(tokens: int, execute: Execute) -> None:
    """Every third of a step's tokens is known, the others are the last step's choices, in another order."""
    known = numpy.arange(tokens, dtype=numpy.int64) * 7
    is_known = numpy.arange(tokens) % 3 == 0
    sampled = numpy.arange(tokens, dtype=numpy.int64) * 11 + 2**33
    chosen = numpy.arange(tokens)[::-1]
    ids = numpy.where(is_known, known, -1 - chosen)
    execute(plan_take_sampled(tokens), {"token_ids": ids, "sampled": sampled}, (), updates=("token_ids",))
    assert numpy.array_equal(ids, numpy.where(is_known, known, sampled[chosen]))
