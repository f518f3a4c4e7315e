"""Double precision by accident

## Pattern
Kernels compute in fp64, which no language model needs.

## Evidence
Kernels named `…dgemm…`, or with `double` among their template arguments, take time.

## Cause
A tensor made by numpy or by `torch.set_default_dtype` is float64, and everything that it touches becomes
so. Outside of data-centre chips fp64 runs at 1/32 or 1/64 of the fp32 rate.

## Remedy
Find the tensor (`torch.float64` in a debugger, or `profile`'s module of the kernel) and make it
`torch.float32`; `numpy.float32` where it is made.

## Saving
The kernels' time times (1 − fp64 rate ÷ fp32 rate of this chip); at most a half for kernels that are not
matrix products, which memory bounds: their bytes halve.

## References
- CUDA C++ Programming Guide 12, arithmetic instructions: throughput by compute capability
- https://github.com/microsoft/superbenchmark/pull/294 (A10: fp64 at 1/64 of fp32)
"""

from __future__ import annotations

from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.kernel_names import is_double, is_double_gemm
from pascaline.diagnose.names import listed
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run
from pascaline.report.numbers import seconds, share

_HALF_THE_BYTES = 0.5


def check(run: Run) -> Found | None:
    """Kernels in fp64."""
    chip = run.chip
    kernels = [(row, kernel) for row, kernel in run.kernels if kernel.s and is_double(kernel.name)]
    if chip is None or not kernels:
        return None
    price = chip.ratio("fp64")
    savings = tuple(
        Saving(
            row.index,
            kernel.name,
            row.whole_kernel_s(kernel)
            * (1 - (price if is_double_gemm(kernel.name) else max(price, _HALF_THE_BYTES))),
        )
        for row, kernel in kernels
    )
    whole_s = sum(row.whole_kernel_s(kernel) for row, kernel in kernels)
    saved_s = sum(saving.saves_s for saving in savings)
    return Found(
        evidence=(
            f"{listed(kernel.name for _, kernel in kernels)}: {seconds(whole_s)} of {seconds(run.total_s)}"
            f" ({share(whole_s, run.total_s)}) in fp64, at 1/{round(1 / price) if price else '∞'} of the"
            f" fp32 rate ({chip.sm}). In fp32 {seconds(whole_s)} become {seconds(whole_s - saved_s)}."
        ),
        cause="A float64 tensor makes everything that it touches compute in double precision.",
        remedy="Find where the tensor is made (numpy, torch.set_default_dtype) and make it float32.",
        savings=savings,
    )


RULE = Rule("PAS006", "double-precision", check)
