"""Numbers with units, for people: GiB for capacity, GB = 1e9 for rates."""

from __future__ import annotations

import math


def format_number(value: float, digits: int = 3) -> str:
    """Rounded to so many digits, never in powers of ten: 1790.4 -> "1790", 0.21412 -> "0.214"."""
    if value == 0.0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    text = f"{round(value, max(digits - 1 - magnitude, 0)):.{max(digits - 1 - magnitude, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


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
    """A duration: 0.00002 -> "20.0 µs", 0.0032 -> "3.2 ms", 75 -> "1 min 15 s"."""
    if 0.0 < seconds < 1e-4:
        return f"{seconds * 1e6:.1f} µs"
    if seconds < 1.0:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
