"""Matrix products far below what chip and library allow

## Pattern
Linears take several times as long as their arithmetic and their traffic explain, and no other rule says
why.

## Evidence
The time that their FLOP take at the library's rate in the chip's best floating-point arithmetic, or their
bytes at the memory's bandwidth, whichever is longer, against the time that was measured.

## Cause
Not known from this record: kernels that are emulated or not made for the chip, launches between short
kernels, another process on the card, a slow first call.

## Remedy
Record the kernels: `nsys profile`, or `torch.profiler`, and diagnose that file; their names tell the
arithmetic and the detours. `pascaline bench gemm` shows what the card reaches.

## Saving
The measured time, less the time explained: an upper bound of what there is to win.

## References
- https://github.com/zzc0721/torch-performance-test-data/issues/89 (GTX 1660 Ti: fp16 0.61, fp32 4.86 TFLOP/s)
- Williams, Waterman and Patterson 2009, Roofline, Communications of the ACM 52
"""

from __future__ import annotations

from pascaline.core.units import format_number
from pascaline.diagnose.chip import Chip
from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.names import last_names
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import MeasuredRow, Run
from pascaline.report.numbers import rate, seconds, share

_TIMES = 4.0
"""First calls and small shapes are slower than large products, by less than this."""


def check(run: Run) -> Found | None:
    """Linears with much more time than work."""
    chip = run.chip
    fastest = _fastest(chip) if chip is not None else None
    if chip is None or fastest is None or chip.bytes_per_s is None:
        return None
    slow = [
        (row, explained_s)
        for row in run.linears
        if (explained_s := _explained_s(row, fastest, chip.bytes_per_s)) is not None
        and row.whole_s > _TIMES * explained_s
    ]
    if not slow:
        return None
    rows = [row for row, _ in slow]
    whole_s, explained_s = sum(row.whole_s for row in rows), sum(s for _, s in slow)
    flop = sum(row.whole_flop or 0.0 for row in rows)
    return Found(
        evidence=(
            f"{last_names(rows)} take {seconds(whole_s)} of {seconds(run.total_s)}"
            f" ({share(whole_s, run.total_s)}), at {rate(flop / whole_s)}. At the library's {rate(fastest)}"
            f" on {chip.name}, and with the memory at its bandwidth, {seconds(explained_s)} would do:"
            f" {format_number(whole_s / explained_s)} times less."
        ),
        cause=(
            f"Not known from this record: the products reach {share(flop / whole_s, fastest)} of the"
            " library's rate."
        ),
        remedy=(
            "Record the kernels (nsys profile, or torch.profiler) and diagnose that file: their names"
            " tell. pascaline bench gemm shows what this card reaches."
        ),
        savings=tuple(Saving(row.index, None, row.whole_s - s) for row, s in slow),
    )


def _fastest(chip: Chip) -> float | None:
    """The library's best rate in floating point."""
    rates = [library.operations_per_s for kind in ("fp32", "tensor_fp16") if (library := chip.library(kind))]
    return max(rates, default=None)


def _explained_s(row: MeasuredRow, operations_per_s: float, bytes_per_s: float) -> float | None:
    if row.whole_flop is None:
        return None
    return max(row.whole_flop / operations_per_s, (row.whole_bytes or 0.0) / bytes_per_s)


RULE = Rule("PAS017", "far-below-the-library-rate", check, is_last_resort=True)
