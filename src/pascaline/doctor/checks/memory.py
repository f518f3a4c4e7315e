"""The machine's memory: free, swapped out, limited by a container, shared.

Models are mapped from their files and need memory of their size. A container's limit counts, not what the
machine has; swapping makes every token wait for the disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pascaline.core.units import format_bytes
from pascaline.doctor.check import Check, Finding, ok, warn
from pascaline.doctor.machine import Machine
from pascaline.doctor.remedies import sudo

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_LITTLE_BYTES = 2 << 30
_SWAPPED_BYTES = 1 << 30
_SHARED_BYTES = 1 << 30
_EXPECTED = f"{format_bytes(_LITTLE_BYTES)} free or more, and no swapping"


def _look(machine: Machine) -> Iterator[Finding]:
    known = _meminfo(machine)
    total, available = known.get("MemTotal"), known.get("MemAvailable")
    if total is None or available is None:
        yield ok("this system does not tell", _EXPECTED)
        return
    limit = _limit(machine)
    limited = limit is not None and limit < total
    seen = f"{format_bytes(available)} of {format_bytes(total)} free"
    if limited and limit is not None:
        seen += f", and the container's limit is {format_bytes(limit)}"
        available = min(available, limit)
    if available < _LITTLE_BYTES:
        remedy = "docker run --memory 8g IMAGE" if limited else "ps -eo pid,rss,comm --sort=-rss | head"
        yield warn(seen, _EXPECTED, remedy)
    swapped = known.get("SwapTotal", 0) - known.get("SwapFree", 0)
    if swapped > _SWAPPED_BYTES:
        remedy = (
            sudo(machine, "swapoff -a")
            + " && "
            + sudo(machine, "swapon -a")
            + "  # when memory is free again"
        )
        yield warn(f"{format_bytes(swapped)} are swapped out", _EXPECTED, remedy)
    shared = machine.free_bytes(Path("/dev/shm"))  # noqa: S108 - where it is, not a file in it
    if len(machine.gpus().gpus) > 1 and shared is not None and shared < _SHARED_BYTES:
        short = f"shared memory has {format_bytes(shared)}: too little for several cards to talk through"
        yield warn(short, _EXPECTED, "docker run --shm-size 8g IMAGE")
    yield ok(seen, _EXPECTED)


def _meminfo(machine: Machine) -> dict[str, int]:
    """In bytes. Source: proc(5)."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", machine.text("/proc/meminfo") or "", re.MULTILINE)
    return {name: int(kibibytes) << 10 for name, kibibytes in lines}


def _limit(machine: Machine) -> int | None:
    texts = (machine.text(name) for name in _LIMITS)
    return next((int(text) for text in texts if text and text.isdecimal()), None)


CHECK = Check("memory", _look)
