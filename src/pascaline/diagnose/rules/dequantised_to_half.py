"""Weights written back to half precision at every step

## Pattern
Packed weights are dequantised into a half-precision (or fp32) matrix in memory, which a library's matrix
product then reads: at every step, again.

## Evidence
Time in kernels that only dequantise: `reconstruct_…` (exllama, vLLM's GPTQ), `dequantize_…` (AWQ,
llama.cpp's cuBLAS path, bitsandbytes).

## Cause
The engine has no kernel that multiplies packed weights at this number of rows or on this chip: it takes
the way over memory. Each weight is then read in 4 bits, written in 16 and read in 16: 4.5 bytes instead
of half a byte.

## Remedy
A kernel that dequantises in registers: vLLM `--quantization gptq_marlin` or `awq_marlin` (compute
capability 8.0; 7.5 in newer versions), llama.cpp built with `-DGGML_CUDA_FORCE_MMQ=ON`, `pascaline
serve`, on every card.

## Saving
The dequantising kernels' own time. The product's second reading, in half, goes too, and is not counted.

## References
- https://github.com/ggml-org/llama.cpp/pull/2809 (nvprof, V100: 332 µs to dequantise, 238 µs to multiply)
- https://github.com/sgl-project/sglang/pull/4104 (times of AWQ dequantisation)
- https://github.com/vllm-project/vllm/issues/6567
"""

from __future__ import annotations

from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.kernel_names import is_dequantisation
from pascaline.diagnose.names import listed
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import MeasuredRow, Run
from pascaline.report.numbers import bandwidth, seconds, share, volume

_PACKED_BYTES, _HALF_BYTES = 0.5, 2.0


def check(run: Run) -> Found | None:
    """Kernels that only write packed weights back."""
    kernels = [(row, kernel) for row, kernel in run.kernels if kernel.s and is_dequantisation(kernel.name)]
    if not kernels:
        return None
    savings = tuple(Saving(row.index, kernel.name, row.whole_kernel_s(kernel)) for row, kernel in kernels)
    whole_s = sum(saving.saves_s for saving in savings)
    calls = sum(kernel.calls for _, kernel in kernels)
    return Found(
        evidence=(
            f"{listed(kernel.name for _, kernel in kernels)}: {seconds(whole_s)} of {seconds(run.total_s)}"
            f" ({share(whole_s, run.total_s)}) in {calls}"
            f" calls.{_traffic([row for row, _ in kernels], run)}"
        ),
        cause=(
            "Packed weights are written back to memory in half precision or more before each matrix"
            " product, instead of being dequantised in registers."
        ),
        remedy=(
            "A kernel that multiplies packed weights: in vLLM --quantization gptq_marlin or awq_marlin"
            " where the chip allows; in llama.cpp -DGGML_CUDA_FORCE_MMQ=ON where the chip has dp4a;"
            " pascaline serve MODEL on any card."
        ),
        savings=savings,
    )


def _traffic(rows: list[MeasuredRow], run: Run) -> str:
    """The bytes that the detour moves, where the linears' sizes are known."""
    tokens = run.step_tokens
    unique = {row.index: row for row in rows if row.is_linear and row.whole_flop}
    if tokens is None or not unique or run.chip is None or run.chip.bytes_per_s is None:
        return ""
    weights = sum((row.whole_flop or 0.0) / (2 * tokens) for row in unique.values())
    moved = weights * (_PACKED_BYTES + _HALF_BYTES)
    return (
        f" {weights / 1e9:.3g}e9 weights × ({_PACKED_BYTES} read + {_HALF_BYTES} written) bytes ="
        f" {volume(moved)}, {seconds(moved / run.chip.bytes_per_s)} at {bandwidth(run.chip.bytes_per_s)};"
        " the product reads the half-precision copy once more."
    )


RULE = Rule("PAS002", "dequantised-to-half", check)
