"""What the system says of this machine's processor. Standard library only."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LARGE_CACHE_BYTES = 64 << 20
"""Taken for the last cache where the system does not say: more than most processors' cores share."""


@functools.cache
def processor_name() -> str:
    """Its marketing name where the system knows it, else that of its instruction set."""
    try:
        lines = _CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    names = [value.strip() for key, _, value in fields if key.strip() == "model name"]
    return (names or [""])[0] or platform.processor() or platform.machine() or "unknown processor"


@functools.cache
def last_cache_bytes() -> int:
    """The largest cache that the first core reads through."""
    sizes = []
    for path in _CACHES.glob("index*/size"):
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text[:-1].isdecimal() and text[-1:] in _UNITS:
            sizes.append(int(text[:-1]) * _UNITS[text[-1]])
    return max(sizes, default=_LARGE_CACHE_BYTES)
