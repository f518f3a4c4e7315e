"""Medians of runs that take turns, so that whatever the machine does meanwhile meets all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

LEAST_ROUNDS, MOST_ROUNDS = 3, 25


@dataclass(frozen=True)
class Sample:
    """How long so many runs took, and the chip's clock meanwhile (None where it cannot be read)."""

    seconds: float
    clock_mhz: float | None


class Stopwatch(Protocol):
    """Times work on one device."""

    sample_s: float
    """A sample lasts so long at least."""

    def time(self, run: Callable[[], None], times: int, expected_s: float, /) -> Sample:
        """Run `times` times and wait for the end; `expected_s` is a guess of the whole, 0 for none."""
        ...

    def shortened(self, run: Callable[[], None], once_s: float, /) -> Callable[[], None]:
        """The same work with less to do before it begins, where a run of `once_s` is short enough to gain."""
        ...

    def bytes_per_s(self) -> float | None:
        """What its memory gives at this moment; None where that is not known."""
        ...


@dataclass(frozen=True)
class Timing:
    """Of one run: the median of all rounds.

    Parameters
    ----------
    spread : from the first to the third quartile, as a share of the median.
    clock_mhz : median of the rounds'.
    """

    median_s: float
    spread: float
    clock_mhz: float | None
    rounds: int


def alternate(
    runs: Sequence[Callable[[], None]],
    stopwatch: Stopwatch,
    budget_s: float,
    advance: Callable[[], None],
) -> tuple[list[Timing], list[float]]:
    """Time each of `runs`, in turns, for about `budget_s` in all, but for three rounds at least.

    Returns their times, and what memory gave beside each round, in bytes a second, where that is known.

    Parameters
    ----------
    advance : called after each run's first sample, which settles how many make up one.
    """
    times: list[int] = []
    expected_s: list[float] = []
    shortened = []
    for run in runs:
        shortened.append(stopwatch.shortened(run, _once(run, stopwatch)))
        once_s = _once(shortened[-1], stopwatch)
        times.append(max(1, round(stopwatch.sample_s / once_s)))
        expected_s.append(times[-1] * once_s)
        advance()
    rounds = round(budget_s / max(sum(expected_s), 1e-9))
    rounds = min(max(rounds, LEAST_ROUNDS), MOST_ROUNDS)
    samples: list[list[Sample]] = [[] for _ in runs]
    rates = []
    for _ in range(rounds):
        rates.append(stopwatch.bytes_per_s())
        for run, count, expected, taken in zip(shortened, times, expected_s, samples, strict=True):
            taken.append(stopwatch.time(run, count, expected))
    timings = [_summary(taken, count) for taken, count in zip(samples, times, strict=True)]
    return timings, [rate for rate in rates if rate is not None]


def _once(run: Callable[[], None], stopwatch: Stopwatch) -> float:
    """Roughly what a run takes, after one that finds everything cold."""
    stopwatch.time(run, 1, 0.0)
    times = 1
    while True:
        seconds = stopwatch.time(run, times, 0.0).seconds
        if seconds >= stopwatch.sample_s / 8 or times >= 1 << 16:
            return max(seconds / times, 1e-9)
        times *= 4


def _summary(samples: list[Sample], times: int) -> Timing:
    seconds = sorted(sample.seconds / times for sample in samples)
    clocks = [sample.clock_mhz for sample in samples if sample.clock_mhz is not None]
    first, middle, third = statistics.quantiles(seconds, n=4, method="inclusive")
    clock_mhz = statistics.median(clocks) if clocks else None
    return Timing(middle, (third - first) / middle, clock_mhz, len(seconds))
