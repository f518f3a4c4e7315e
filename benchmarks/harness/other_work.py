"""What else the machine does while something is measured. Linux only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def process_cpu_s(pid: int) -> float:
    """User and system time of all of a process's threads so far."""
    # The second field is the program's name in brackets, which may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def machine_cpu_s() -> float:
    """Time of all CPUs at work so far, for whomever; with what the hypervisor took."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


class OtherWork:
    """Counts from its making on; `share` is of all CPUs, by others than `pids` and this process."""

    def __init__(self, *pids: int) -> None:
        self._pids = (*pids, os.getpid())
        self._began = time.monotonic()
        self._all_s = machine_cpu_s()
        self._own_s = _total(self._pids)

    def share(self) -> float:
        """From 0 to 1; counters advance in hundredths of a second."""
        others_s = machine_cpu_s() - self._all_s - (_total(self._pids) - self._own_s)
        wall_s = max(time.monotonic() - self._began, 1 / _TICKS_PER_S)
        return max(0.0, others_s / wall_s / (os.cpu_count() or 1))


def _total(pids: Iterable[int]) -> float:
    return sum(process_cpu_s(pid) for pid in pids)
