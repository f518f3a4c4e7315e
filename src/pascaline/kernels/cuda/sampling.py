"""Launches of shape_logits.cu, choose_tokens.cu and filter_tokens.cu: from logits to tokens.

What is chosen is that of `engine.sampler.sample`, but for draws within a rounding of two tokens' border.
Weights are integers, 2⁴³ for the largest logit, each off by no more than 2⁻²⁹ of itself and by 1. A draw may
thus fall to a token's neighbour in the order of drawing where it lies within 2⁻²⁸ + V · 2⁻⁴³ of their border,
as a share of the sum that is drawn from; likewise top-p's end. Tokens that weigh less than 2⁻⁴⁴ of the most
likely are never drawn; logits are told apart by fp32's bits where fp64 rounds their likelihoods to equals.
"""

from __future__ import annotations

import numpy

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Scratch, Specialisation

ONLY_LOOKED_AT, GREEDY, FROM_ALL, FILTERED = range(4)
"""`LINE`'s "way"."""
MOST_REPORTED = 20
WEIGHT_BITS = 43
"""The largest logit weighs 2 to the power of this."""

SHAPED_ROW = numpy.dtype([("row", "i4"), ("first", "i4"), ("count", "i4"), ("repetition", "f4")])
"""A row to shape, and which of all changes are its."""

CHANGE = numpy.dtype([("id", "i4"), ("is_seen", "i4"), ("subtracted", "f4"), ("added", "f4")])
"""Of a token's logit: the penalty of repetition if it was seen, then what is subtracted and what is added."""

LINE = numpy.dtype(
    [
        ("draw", "u8"),
        ("top_p", "u8"),
        ("reach", "f4", 2),
        ("exponent", "f4", 2),
        ("row", "i4"),
        ("shaped", "i4"),
        ("top_k", "i4"),
        ("way", "i4"),
        ("is_raw", "i4"),
        ("unused", "i4", 3),
    ]
)
"""A row of logits of which something is wanted, as sampling_line.cuh has it.

`draw` and `top_p` are parts of 2⁶⁴, 0 of top-p for all. `reach` is how far below the largest logit min-p lets
tokens be, infinite for all, `exponent` log₂e / temperature, both as sums of two; `row` that of the model's
logits, `shaped` the row of shaped logits, −1 for the model's own.
"""

JOB = numpy.dtype([("line", "i4"), ("report", "i4"), ("reported", "i4"), ("unused", "i4")])
"""A line that a token of is drawn by filters, or whose `reported` most likely tokens report `report` has."""

CHOICE = numpy.dtype([("token", "i4"), ("is_finite", "i4"), ("logit", "f4"), ("most", "f4")])
"""What a row has got: `logit` of the token and `most`, the largest, are the model's."""

REPORT = numpy.dtype([("mass", "u8"), ("ids", "i4", MOST_REPORTED), ("logits", "f4", MOST_REPORTED)])
"""The weights' sum at temperature 1, and the most likely tokens, equals in the order of ids."""

_MOST_CHUNKS = 256
_CHUNK, _FILTERED_CHUNK = 4096, 8192
_CHUNK_BYTES, _BINS_BYTES = 24, 1024 * 12 + 16

MOST_TOKENS = _MOST_CHUNKS * _CHUNK
"""Of a vocabulary."""


def plan_shape_logits(rows: int, vocabulary: int, stride: int) -> LaunchPlan:
    """Buffers: "logits", "shaped_rows" (rows,) SHAPED_ROW, "changes" CHANGE, "shaped" (rows, V) fp32.

    Raises
    ------
    ShapeError : as for all of these launches, nothing to do, or a vocabulary of more than MOST_TOKENS.
    """
    _check(rows, vocabulary)
    return LaunchPlan(
        Specialisation("shape_logits.cu", "shape_logits", ()),
        grid=(-(-vocabulary // _CHUNK), rows, 1),
        block=(256, 1, 1),
        arguments=("logits", "shaped_rows", "changes", "shaped", Integer(vocabulary), Integer(stride)),
        begins_early=True,
    )


def plan_choose_tokens(lines: int, vocabulary: int, stride: int) -> LaunchPlan:
    """Tokens of all lines but those with filters.

    Buffers: "logits" fp32, `stride` numbers a row, "shaped", "lines" (lines,) LINE; "ids" int64 and "choices"
    CHOICE, one a row of the model's, and "ranges" (lines, 2) fp32 for `plan_filter_tokens`.
    """
    _check(lines, vocabulary)
    chunks = -(-vocabulary // _CHUNK)
    return LaunchPlan(
        Specialisation("choose_tokens.cu", "choose_tokens", ()),
        grid=(chunks, lines, 1),
        block=(256, 1, 1),
        arguments=(
            *("logits", "shaped", "lines", "ids", "choices", "ranges", "found", "arrivals"),
            *map(Integer, (vocabulary, stride)),
        ),
        scratch={
            "found": Scratch(_CHUNK_BYTES * chunks * lines),
            "arrivals": Scratch(4 * lines, is_zeroed=True),
        },
        begins_early=True,
    )


def plan_filter_tokens(jobs: int, vocabulary: int, stride: int) -> LaunchPlan:
    """Tokens of lines with filters, and reports.

    Buffers: those of `plan_choose_tokens`, which was launched before; "jobs" (jobs,) JOB, "reports" REPORT.
    """
    _check(jobs, vocabulary)
    return LaunchPlan(
        Specialisation("filter_tokens.cu", "filter_tokens", ()),
        grid=(-(-vocabulary // _FILTERED_CHUNK), jobs, 1),
        block=(1024, 1, 1),
        arguments=(
            *("logits", "shaped", "lines", "jobs", "ranges", "ids", "choices", "reports"),
            *("all_bins", "arrivals"),
            *map(Integer, (vocabulary, stride)),
        ),
        scratch={
            "all_bins": Scratch(_BINS_BYTES * jobs, is_zeroed=True),
            "arrivals": Scratch(4 * jobs, is_zeroed=True),
        },
        begins_early=True,
    )


def _check(rows: int, vocabulary: int) -> None:
    if rows < 1 or not 1 <= vocabulary <= MOST_TOKENS:
        raise ShapeError(
            f"{rows} rows of {vocabulary} logits to sample from", expected=f"1 to {MOST_TOKENS} logits"
        )
