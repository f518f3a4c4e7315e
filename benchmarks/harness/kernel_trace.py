"""What a card did while something ran: when any kernel or copy was at work, and which took how long."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})


@dataclass(frozen=True)
class KernelTrace:
    """Of a stretch of work.

    Parameters
    ----------
    span_s : from the first launch's start to the last one's end.
    busy_s : of it, with at least one launch at work: launches that overlap count once.
    launches : kernels and copies.
    by_name : seconds and number, the most costly first; of launches that overlap each has its own.
    """

    span_s: float
    busy_s: float
    launches: int
    by_name: dict[str, tuple[float, int]]


def traced(work: Callable[[], None]) -> KernelTrace:
    """What the card does during `work`; it is slower than without being watched.

    Raises
    ------
    RuntimeError : nothing was seen.
    """
    with tempfile.TemporaryDirectory() as folder:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize()
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    launches = sorted(
        (float(each["ts"]), float(each["ts"]) + float(each["dur"]), str(each["name"]))
        for each in events
        if each.get("cat") in _WORK and each.get("ph") == "X"
    )
    return summed(launches)


def summed(launches: list[tuple[float, float, str]]) -> KernelTrace:
    """Of starts and ends in microseconds, in order of their starts, and names.

    Raises
    ------
    RuntimeError : there are none.
    """
    if not launches:
        raise RuntimeError("the profiler saw no kernel")
    busy, reached = 0.0, launches[0][0]
    microseconds: dict[str, float] = defaultdict(float)
    times: dict[str, int] = defaultdict(int)
    for start, end, name in launches:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
        microseconds[name] += end - start
        times[name] += 1
    costly = sorted(microseconds, key=microseconds.__getitem__, reverse=True)
    by_name = {name: (microseconds[name] / 1e6, times[name]) for name in costly}
    return KernelTrace((reached - launches[0][0]) / 1e6, busy / 1e6, len(launches), by_name)
