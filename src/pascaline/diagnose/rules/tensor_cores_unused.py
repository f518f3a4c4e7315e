"""Matrix products beside the tensor cores

## Pattern
Matrix products in fp32 outside of tensor cores, on a chip that has them.

## Evidence
Kernels named `…sgemm…` (cuBLAS, CUTLASS "simt") take time on a chip whose tensor cores do several times
the work.

## Cause
Weights and activations are fp32, and TF32 is off (torch's default for products), or the library found no
tensor-core kernel for the alignment of the shapes.

## Remedy
`dtype=torch.float16` or `bfloat16` (from capability 8.0); or, keeping fp32 storage from 8.0 on,
`torch.set_float32_matmul_precision("high")`. Dimensions that are multiples of 8.

## Saving
The kernels' time, less their arithmetic at the library's share of the tensor cores' roof. Where the FLOP
are unknown: their time times the ratio of the two library rates. Never less than the row's bytes at the
memory's bandwidth.

## References
- https://github.com/NVIDIA/cutlass/issues/941 (A10: simt SGEMM at 12.5 TFLOP/s)
- https://github.com/pytorch/pytorch/issues/153195 (TF32 is off by default)
"""

from __future__ import annotations

from pascaline.diagnose.chip import Chip
from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.kernel_names import is_single_gemm
from pascaline.diagnose.names import listed
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import MeasuredRow, Run
from pascaline.report.numbers import rate, seconds, share
from pascaline.report.run_record import RecordedKernel

_FEWEST_TIMES = 1.5


def check(run: Run) -> Found | None:
    """Products in fp32 where tensor cores would do."""
    chip = run.chip
    if chip is None or chip.gpu is None or not chip.has_tensor_cores:
        return None
    plain, tensor = chip.library("fp32"), chip.library("tensor_fp16")
    if plain is None or tensor is None or tensor.operations_per_s < _FEWEST_TIMES * plain.operations_per_s:
        return None
    products = [(row, kernel) for row, kernel in run.kernels if kernel.s and is_single_gemm(kernel.name)]
    slower = plain.operations_per_s / tensor.operations_per_s
    savings = []
    for row, kernel in products:
        whole_s = row.whole_kernel_s(kernel)
        after_s = max(
            _product_s(row, kernel, tensor.operations_per_s) or whole_s * slower, _traffic_s(row, chip)
        )
        if after_s < whole_s:
            savings.append(Saving(row.index, kernel.name, whole_s - after_s))
    if not savings:
        return None
    whole_s = sum(row.whole_kernel_s(kernel) for row, kernel in products)
    saved_s = sum(saving.saves_s for saving in savings)
    return Found(
        evidence=(
            f"{listed(kernel.name for _, kernel in products)}: {seconds(whole_s)} of {seconds(run.total_s)}"
            f" ({share(whole_s, run.total_s)}) in fp32 without tensor cores. The library reaches"
            f" {rate(plain.operations_per_s)} so, and {rate(tensor.operations_per_s)} with them"
            f" ({tensor.source}): {seconds(whole_s)} become {seconds(whole_s - saved_s)}."
        ),
        cause=f"fp32 products run beside the tensor cores of {chip.name} ({chip.sm}).",
        remedy=(
            "Half-precision weights and activations (dtype=torch.float16, or bfloat16 from capability"
            " 8.0); to keep"
            ' fp32 storage, torch.set_float32_matmul_precision("high") from 8.0 on (TF32, at half of that'
            " rate)."
        ),
        savings=tuple(savings),
    )


def _product_s(row: MeasuredRow, kernel: RecordedKernel, operations_per_s: float) -> float | None:
    """At the tensor cores' rate, where the row's arithmetic is this kernel's alone."""
    alone = sum(is_single_gemm(other.name) for other in row.row.kernels) == 1 and is_single_gemm(kernel.name)
    return row.whole_flop / operations_per_s if alone and row.is_linear and row.whole_flop else None


def _traffic_s(row: MeasuredRow, chip: Chip) -> float:
    return (row.whole_bytes or 0.0) / chip.bytes_per_s if chip.bytes_per_s else 0.0


RULE = Rule("PAS004", "tensor-cores-unused", check)
