"""Times of ways that take turns, each a CUDA graph over all copies of its weight."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pynvml
import torch

from linears.way import Way

LEAST_GRAPH_S = 1.5e-3
"""A replay lasts so long at least: what comes before its first kernel is some microseconds."""

MOST_CALLS = 1024

ALL_WAYS = "all ways in turns"
"""What is announced once each was captured."""


@dataclass(frozen=True)
class Timed:
    """Of one product.

    Parameters
    ----------
    median_s, least_s : over the rounds.
    spread : from the first to the third quartile, as a share of the median.
    """

    median_s: float
    least_s: float
    spread: float
    rounds: int
    calls_per_round: int


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    calls: int
    replay_s: float


class Clocks:
    """What NVML says of the card while it works."""

    def __init__(self) -> None:
        self._handle = None
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        except pynvml.NVMLError:
            pass

    def read(self) -> tuple[int, int] | None:
        """MHz of the multiprocessors and of the memory; None where NVML does not tell."""
        if self._handle is None:
            return None
        try:
            return (
                int(pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_SM)),
                int(pynvml.nvmlDeviceGetClockInfo(self._handle, pynvml.NVML_CLOCK_MEM)),
            )
        except pynvml.NVMLError:
            return None


def time_in_turns(
    ways: Sequence[Way],
    budget_s: float,
    rounds: tuple[int, int] = (5, 15),
    announce: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Timed], list[tuple[int, int]]]:
    """Times by the ways' names, and the clocks beside each round.

    Every way was launched before, so that nothing is loaded or compiled in between. Each round replays every
    way once; `rounds` are the fewest and the most of them, whose time `budget_s` bounds between the two.
    `announce` is told which way is captured and replayed alone, and when all take turns.
    """
    clocks = Clocks()
    captured = {}
    for way in ways:
        announce(way.name)
        captured[way.name] = _capture(way)
    announce(ALL_WAYS)
    once_s = sum(each.replay_s for each in captured.values())
    count = min(max(rounds[0], int(budget_s / max(once_s, 1e-6))), rounds[1])
    seen: dict[str, list[float]] = {name: [] for name in captured}
    clocks_seen = []
    for turn in range(count):
        order = list(captured.items())
        # The first of a round finds the card as the last of the round before left it: another one each time.
        order = order[turn % len(order) :] + order[: turn % len(order)]
        events = []
        for name, each in order:
            # torch gives these no types.
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            each.graph.replay()
            stop.record()
            events.append((name, start, stop))
        now = clocks.read()
        if now is not None:
            clocks_seen.append(now)
        torch.cuda.synchronize()
        for name, start, stop in events:
            seen[name].append(start.elapsed_time(stop) / 1e3 / captured[name].calls)
    timed = {}
    for name, seconds in seen.items():
        first, middle, third = statistics.quantiles(seconds, n=4, method="inclusive")
        timed[name] = Timed(middle, min(seconds), (third - first) / middle, count, captured[name].calls)
    return timed, clocks_seen


def _capture(way: Way) -> _Captured:
    """A graph of all copies in turn, as often as a replay needs to be long enough."""
    once = _graph(way, 1)
    wanted = math.ceil(LEAST_GRAPH_S / once.replay_s)
    times = min(wanted, max(1, MOST_CALLS // way.copies))
    return once if times <= 1 else _graph(way, times)


def _graph(way: Way, times: int) -> _Captured:
    """PERF: without `torch.cuda.graph`, which collects garbage and gives back memory at every capture."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(_capturing()):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            for _ in range(times):
                for copy in range(way.copies):
                    way.launch(copy)
        finally:
            graph.capture_end()
    return _Captured(graph, times * way.copies, _replay_s(graph))


@functools.cache
def _capturing() -> torch.cuda.Stream:
    # torch gives these no types.
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def _replay_s(graph: torch.cuda.CUDAGraph) -> float:
    """Roughly, after one replay that finds everything cold."""
    graph.replay()
    # torch gives these no types.
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    graph.replay()
    stop.record()
    stop.synchronize()
    return max(float(start.elapsed_time(stop)) / 1e3, 1e-6)
