"""What stands out in the products of a chip, in sentences with their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pascaline.bench.gemm import GemmReport, GemmRow
from pascaline.core.units import format_number

MUCH = 1.5
"""A ratio that is worth a sentence."""


def findings(report: GemmReport) -> list[str]:
    """From the shape with the most rows what computing does, from that with the fewest what reading does."""
    most = max(report.shapes, key=lambda shape: shape.m)
    fewest = min(report.shapes, key=lambda shape: shape.m)
    # A product may have been cut to fewer columns.
    compute = [row for row in report.rows if row.tflops and row.shape.m == most.m]
    decode = [row for row in report.rows if row.tflops and row.shape == fewest]
    said = [_half(compute), _library_and_chip(compute), _fastest_library(compute), _ours(compute)]
    if fewest.m < most.m:
        said.append(_decode(decode))
    return [sentence for sentence in said if sentence is not None]


def _half(rows: Sequence[GemmRow]) -> str | None:
    half = _fastest(rows, lambda row: row.is_library and row.precision in ("fp16", "fp16, fp16 sums"))
    fp32 = _fastest(rows, _is_fp32)
    if half is None or fp32 is None:
        return None
    ratio = _rate(fp32) / _rate(half)
    if ratio >= MUCH:
        return f"half arithmetic runs at 1/{ratio:.0f} of fp32 here: the policy avoids it"
    return None


def _library_and_chip(rows: Sequence[GemmRow]) -> str | None:
    fp32 = _fastest(rows, _is_fp32)
    if fp32 is None or fp32.share_of_limit is None:
        return None
    return (
        f"in fp32 the library reaches {format_number(_rate(fp32))} TFLOP/s, {fp32.share_of_limit:.0%} of "
        "what this chip can do: two numbers that are easily taken for one"
    )


def _fastest_library(rows: Sequence[GemmRow]) -> str | None:
    best, fp32 = _fastest(rows, lambda row: row.is_library), _fastest(rows, _is_fp32)
    if best is None or fp32 is None or _rate(best) < MUCH * _rate(fp32):
        return None
    return f"the fastest library product is {best.precision}, {_rate(best) / _rate(fp32):.1f} times fp32"


def _ours(rows: Sequence[GemmRow]) -> str | None:
    ours = _fastest(rows, lambda row: not row.is_library)
    library = _fastest(rows, lambda row: row.is_library)
    fp32 = _fastest(rows, _is_fp32)
    if ours is None or library is None:
        return None
    if ours.arithmetic == "int8" and fp32 is not None and _rate(ours) >= MUCH * _rate(fp32):
        ratio = _rate(ours) / _rate(fp32)
        return f"{ours.storage} by 8-bit activations runs at {ratio:.1f} times the library's fp32 rate"
    share = _rate(ours) / _rate(library)
    if share * MUCH < 1:
        return (
            f"this project's own linears reach {share:.0%} of the fastest library product here: "
            f"{ours.algorithm} multiplies in {ours.arithmetic}"
        )
    return None


def _decode(rows: Sequence[GemmRow]) -> str | None:
    packed = _fastest(rows, lambda row: not row.is_library)
    library = _fastest(rows, lambda row: row.is_library)
    if packed is None or library is None or packed.bytes_per_weight is None:
        return None
    count = "one row" if packed.shape.m == 1 else f"{packed.shape.m} rows"
    ratio = _rate(packed) / _rate(library)
    if ratio < 1:
        return None
    return (
        f"by {count}, {packed.storage} is {ratio:.1f} times as fast as the fastest library product: it reads "
        f"{packed.bytes_per_weight:.2f} bytes a weight"
    )


def _is_fp32(row: GemmRow) -> bool:
    return row.is_library and row.precision == "fp32"


def _rate(row: GemmRow) -> float:
    return row.tflops or 0.0


def _fastest(rows: Sequence[GemmRow], choose: Callable[[GemmRow], bool]) -> GemmRow | None:
    return max(filter(choose, rows), key=_rate, default=None)
