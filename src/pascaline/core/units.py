"""Numbers with units, for people: GiB for capacity, GB = 1e9 for rates."""

from __future__ import annotations

import math


def format_bytes(count: float, *, round_up: bool = False) -> str:
    """A capacity: 1536 -> "1.5 KiB". Rounded to the nearest, or up for what has to suffice."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    if round_up:
        value = math.ceil(value * 10) / 10
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def format_seconds(seconds: float) -> str:
    """A duration: 0.0032 -> "3.2 ms", 75 -> "1 min 15 s"."""
    if seconds < 1.0:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
