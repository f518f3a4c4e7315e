"""How many threads compute, and how they wait."""

from __future__ import annotations

import math
import os
from pathlib import Path

from pascaline.core import env
from pascaline.core.control_group import granted_processors

SPIN_COUNT = "4000"
_PROCESSORS = Path("/sys/devices/system/cpu")


def yield_when_idle() -> None:
    """Let idle OpenMP threads sleep after some 0.1 ms instead of milliseconds; before torch is imported.

    GNU's OpenMP, which torch brings, lets threads spin 300 000 times at a barrier. Alone on the
    machine that gains some 7 % of a decode step; beside other work each barrier burns a time slice,
    and a step has thousands: 3 to 10 times slower at a load of 6 on 2 cores. A user's own
    GOMP_SPINCOUNT or OMP_WAIT_POLICY is respected.
    Source: the libgomp manual, GOMP_SPINCOUNT.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def compute_threads() -> int:
    """How many threads compute: PASCALINE_THREADS, else OMP_NUM_THREADS, else what the machine gives.

    That is one a physical core that this process may run on, and no more than its control group's
    quota: two threads of one core share its multipliers, and beyond a quota all are stopped at once.
    """
    configured = env.threads()
    if configured is not None:
        return configured
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_siblings(processor) for processor in processors}
    granted = granted_processors()
    return len(cores) if granted is None else min(len(cores), max(1, math.ceil(granted)))


def _siblings(processor: int) -> str:
    """The processors of one core, as the system lists them."""
    try:
        return (_PROCESSORS / f"cpu{processor}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(processor)
