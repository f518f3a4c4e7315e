"""Numbers with units, as terminals and pages show what was measured or predicted."""

from __future__ import annotations

from pascaline.core.units import format_number


def rate(operations_per_s: float) -> str:
    """ "9.30 TFLOP/s", "203 GFLOP/s"."""
    if operations_per_s >= 1e12:
        return f"{operations_per_s / 1e12:.2f} TFLOP/s"
    return f"{format_number(operations_per_s / 1e9)} GFLOP/s"


def bandwidth(bytes_per_s: float) -> str:
    """ "347 GB/s"."""
    return f"{volume(bytes_per_s)}/s"


def volume(nbytes: float) -> str:
    """ "294 TB", "26.1 GB", "4.1 kB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= size:
            return f"{format_number(nbytes / size)} {unit}"
    return f"{format_number(nbytes / 1e3)} kB"


def seconds(s: float) -> str:
    """Four digits from a second on, else three: "134.8 s", "2.875 s", "65.9 ms", "3.1 µs"."""
    if s >= 1.0:
        return f"{s:.4g} s" if s < 1000.0 else f"{s:.0f} s"
    return f"{s * 1e3:.3g} ms" if s >= 1e-3 else f"{s * 1e6:.3g} µs"


def share(part: float, whole: float = 1.0) -> str:
    """ "97.8 %"; "all" of nothing."""
    return f"{100 * part / whole:.3g} %" if whole > 0 else "all"


def factor(ratio: float | None) -> str:
    """ "308×", "0.73×"; a dash where there is none."""
    return "-" if ratio is None else f"{ratio:.3g}×" if ratio < 1000 else f"{ratio:.0f}×"
