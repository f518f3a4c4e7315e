"""What a card is told of a step's sequences for it to sample, and what its results mean: plain arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy

from pascaline.engine.sampler import Sampled, draws_of
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.kernels.cuda import sampling

Array = numpy.ndarray
LineValues = tuple[
    int, int, tuple[float, float], tuple[float, float], int, int, int, int, int, tuple[int, int, int]
]

_LARGEST_EXPONENT = 2.0**126
"""Of temperatures below 2⁻¹²⁶ or so all but the largest logit weigh nothing just as well."""


@dataclass(frozen=True)
class SamplingCall:
    """Arrays of the types of `kernels.cuda.sampling`, of which all but `lines` may be empty.

    Line i < S is the model's row i; rows that are shaped are chosen from in lines behind those. `changes` are
    theirs, row by row.
    """

    lines: Array
    jobs: Array
    shaped_rows: Array
    changes: tuple[Array, ...]

    @property
    def reports(self) -> int:
        return int((self.jobs["report"] >= 0).sum())

    @property
    def packed(self) -> bytes:
        """All but the changes, in the order of the fields; each has multiples of 16 bytes."""
        return b"".join(array.tobytes() for array in (self.lines, self.jobs, self.shaped_rows))


class CallMaker:
    """Makes calls, and remembers of sequences what does not change from step to step."""

    def __init__(self) -> None:
        self._changes: WeakKeyDictionary[Sequence, _Changes] = WeakKeyDictionary()
        self._ways: WeakKeyDictionary[Sequence, _Way] = WeakKeyDictionary()

    def make(self, sequences: list[Sequence], ahead: list[int] | None = None) -> SamplingCall:
        """For sequences whose logits are rows of a matrix, in order; see `engine.sampler.sample`."""
        lines: list[LineValues] = []
        shaped_lines: list[LineValues] = []
        jobs: list[tuple[int, int, int, int]] = []
        shaped_rows: list[tuple[int, int, int, float]] = []
        changes: list[Array] = []
        changed = reports = 0
        for row, (sequence, number) in enumerate(zip(sequences, draws_of(sequences, ahead), strict=True)):
            way = self._way(sequence)
            draw = int(number * 2.0**64)
            line = row
            if way.is_shaped(sequence):
                line = len(sequences) + len(shaped_lines)
                lines.append(way.line(row, draw, -1, sampling.ONLY_LOOKED_AT, is_raw=1))
                shaped_lines.append(way.line(row, draw, len(shaped_rows), way.way, is_raw=0))
                of_row = self._changes.setdefault(sequence, _Changes()).up_to_now(sequence)
                shaped_rows.append((row, changed, len(of_row), sequence.params.repetition_penalty))
                changes.append(of_row)
                changed += len(of_row)
            else:
                lines.append(way.line(row, draw, -1, way.way, is_raw=1))
            if way.way == sampling.FILTERED:
                jobs.append((line, -1, 0, 0))
            if sequence.params.logprobs is not None:
                jobs.append((row, reports, sequence.params.logprobs, 0))
                reports += 1
        return SamplingCall(
            lines=numpy.array(lines + shaped_lines, sampling.LINE),
            jobs=numpy.array(jobs, sampling.JOB),
            shaped_rows=numpy.array(shaped_rows, sampling.SHAPED_ROW),
            changes=tuple(changes),
        )

    def _way(self, sequence: Sequence) -> _Way:
        found = self._ways.get(sequence)
        if found is None:
            found = self._ways[sequence] = _Way.of(sequence.params)
        return found


def results_of(
    sequences: list[Sequence], vocabulary: int, choices: Array, reports: Iterable[Array]
) -> list[Sampled]:
    """What a call has given: `choices` one a sequence, `reports` of those that wanted log-probabilities."""
    remaining = iter(reports)
    results: list[Sampled] = []
    for sequence, (token, is_finite, logit, most) in zip(sequences, choices.tolist(), strict=True):
        count = sequence.params.logprobs
        report = None if count is None else next(remaining)
        if count is None or report is None or not is_finite:
            results.append(Sampled(token, bool(is_finite)))
            continue
        shift = most + math.log(int(report["mass"])) - sampling.WEIGHT_BITS * math.log(2.0)
        count = min(count, vocabulary)
        pairs = zip(report["ids"][:count].tolist(), report["logits"][:count].tolist(), strict=True)
        results.append(Sampled(token, True, logit - shift, [(top, value - shift) for top, value in pairs]))
    return results


@dataclass(frozen=True)
class _Way:
    """What lines of a sequence have in common.

    `changes_always`: its logits are shaped from the first token on; `changes_later`: from the second.
    """

    way: int
    top_k: int
    top_p: int
    reach: tuple[float, float]
    exponent: tuple[float, float]
    changes_always: bool
    changes_later: bool

    @classmethod
    def of(cls, params: SamplingParams) -> _Way:
        exponent = min(math.log2(math.e) / max(params.temperature, 1e-300), _LARGEST_EXPONENT)
        reach = -params.temperature * math.log(params.min_p) if params.min_p > 0.0 else math.inf
        has_filters = params.top_k > 0 or params.top_p < 1.0 or params.min_p > 0.0
        drawn = sampling.FILTERED if has_filters else sampling.FROM_ALL
        return cls(
            way=sampling.GREEDY if params.greedy else drawn,
            top_k=params.top_k,
            top_p=0 if params.top_p == 1.0 else max(1, int(params.top_p * 2.0**64)),
            reach=_split(reach),
            exponent=_split(exponent),
            changes_always=bool(params.logit_bias) or params.repetition_penalty != 1.0,
            changes_later=bool(params.presence_penalty or params.frequency_penalty),
        )

    def is_shaped(self, sequence: Sequence) -> bool:
        """Whether penalties or a bias change the logits now."""
        return self.changes_always or (self.changes_later and bool(sequence.output_counts))

    def line(self, row: int, draw: int, shaped: int, way: int, *, is_raw: int) -> LineValues:
        numbers = (row, shaped, self.top_k, way, is_raw)
        return (draw, self.top_p, self.reach, self.exponent, *numbers, (0, 0, 0))


def _split(value: float) -> tuple[float, float]:
    """Two fp32 numbers of that sum."""
    high = float(numpy.float32(value))
    return (high, value - high if math.isfinite(high) else 0.0)


class _Changes:
    """What penalties and biases make of a sequence's logits; kept up while it grows."""

    def __init__(self) -> None:
        self._array = numpy.empty(0, sampling.CHANGE)
        self._length = 0

    def up_to_now(self, sequence: Sequence) -> Array:
        """By token ids; changed by the next call."""
        params, tokens, before = sequence.params, sequence.tokens, self._length
        if before == 0:
            for token, bias in params.logit_bias.items():
                self._put("added", numpy.array([token], numpy.int32), bias)
        if params.repetition_penalty != 1.0:
            self._put("is_seen", numpy.unique(numpy.array(tokens[before:], numpy.int32)), 1)
        if params.presence_penalty or params.frequency_penalty:
            fresh = numpy.unique(numpy.array(tokens[max(before, sequence.prompt_length) :], numpy.int32))
            times = numpy.array([sequence.output_counts[token] for token in fresh.tolist()], numpy.float32)
            of_times = times * numpy.float32(params.frequency_penalty)
            self._put("subtracted", fresh, of_times + numpy.float32(params.presence_penalty))
        self._length = len(tokens)
        return self._array

    def _put(self, field: str, ids: Array, values: Array | float) -> None:
        """Of ids that are in order, each once; those that were not there come in."""
        known = self._array["id"]
        if not (numpy.append(known, -1)[numpy.searchsorted(known, ids)] == ids).all():
            union = numpy.union1d(known, ids)
            array = numpy.zeros(len(union), sampling.CHANGE)
            array[numpy.searchsorted(union, known)] = self._array
            array["id"] = union
            self._array = array
        self._array[field][numpy.searchsorted(self._array["id"], ids)] = values
