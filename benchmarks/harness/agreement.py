"""How far one side's logits agree with another's, the judge's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

SURE_MARGIN = 1.0
"""By how much the judge's likeliest token has to lead, in log-probability, to be asked of the other."""
MAX_DELTA = 0.3
"""Of that token's log-probability."""

Logits = NDArray[numpy.float32]


@dataclass(frozen=True)
class Agreement:
    """Over all positions of some texts; log-probabilities and divergences in nats.

    `sure` counts the positions where the judge is sure, `same_token` those of them where the other
    side finds the same token likeliest, and `beyond` those where it does not or where the token's
    log-probability differs by more than `MAX_DELTA`; `largest_delta` is of that difference.
    `largest_delta_anywhere` is of any token at any position. Divergences are Kullback and Leibler's,
    of the judge from the other.
    """

    positions: int
    sure: int
    same_token: int
    beyond: int
    largest_delta: float
    largest_delta_anywhere: float
    median_divergence: float
    largest_divergence: float


def log_probabilities(logits: Logits) -> Logits:
    """Of logits (T, V): the same minus the logarithm of the sum of their exponentials."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    sums = numpy.exp(shifted).sum(axis=1, keepdims=True, dtype=numpy.float64)
    result: Logits = shifted - numpy.log(sums).astype(numpy.float32)
    return result


def agreement(judge: Logits, other: Logits) -> Agreement:
    """Of `other` with `judge`, both log-probabilities (T, V) of the same positions.

    Not-a-number on either side is no agreement: it counts as an infinite difference.
    """
    rows = numpy.arange(len(judge))
    difference = numpy.nan_to_num(numpy.abs(judge - other), nan=numpy.inf)
    divergences = numpy.nan_to_num(
        numpy.einsum("tv,tv->t", numpy.exp(judge), judge - other, dtype=numpy.float64), nan=numpy.inf
    )
    first = judge.argmax(axis=1)
    margins = judge[rows, first] - numpy.partition(judge, -2, axis=1)[:, -2]
    sure = margins > SURE_MARGIN
    same = sure & (other.argmax(axis=1) == first)
    deltas = difference[rows, first]
    return Agreement(
        positions=len(judge),
        sure=int(sure.sum()),
        same_token=int(same.sum()),
        beyond=int((sure & ~(same & (deltas <= MAX_DELTA))).sum()),
        largest_delta=float(deltas[sure].max(initial=0.0)),
        largest_delta_anywhere=float(difference.max()),
        median_divergence=float(numpy.median(divergences)),
        largest_divergence=float(divergences.max()),
    )
