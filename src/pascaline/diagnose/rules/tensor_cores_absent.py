"""Software that assumes tensor cores which the chip does not have

## Pattern
A kernel or library is chosen that needs tensor cores, or a data type of newer chips, on a card without
them.

## Evidence
An error in the record's notes ("FlashAttention only supports Ampere GPUs or newer", "Bfloat16 is only
supported on GPUs with compute capability of at least 8.0", a quantisation's "Minimum capability"); or
kernels named for tensor cores (`…s1688gemm…`, `…_mma_…`) on a card that has none: GTX 16xx run them, far
below their ordinary arithmetic.

## Cause
Tensor cores begin with compute capability 7.0, bfloat16 and asynchronous copies with 8.0. GTX 16xx are
7.5 in name, but have no tensor cores.

## Remedy
Ordinary kernels: `attn_implementation="sdpa"` in transformers, `VLLM_ATTENTION_BACKEND=XFORMERS` and
`--dtype half` in vLLM, GGUF instead of Marlin or AWQ formats; `pascaline serve MODEL`.

## Saving
Not predicted for an error. For tensor-core kernels on a card without the units: their time, less their
arithmetic at the library's fp32 rate, where the FLOP are known.

## References
- https://github.com/Dao-AILab/flash-attention/issues/762
- https://github.com/pytorch/pytorch/issues/121957 (GTX 1660 SUPER: fp16 products at 0.5 TFLOP/s)
- https://github.com/ggml-org/llama.cpp/issues/15233
"""

from __future__ import annotations

import re

from pascaline.diagnose.chip import Chip
from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.kernel_names import is_tensor_core
from pascaline.diagnose.names import listed
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import Run
from pascaline.report.numbers import rate, seconds

_ERROR = re.compile(
    r"only supports? (?:Ampere|Turing|Volta|Hopper)[^.\n]{0,40}"
    r"|bfloat16 is only supported on GPUs with compute[^.\n]{0,40}"
    r"|minimum capability:? ?\d+[^\n]{0,40}|requires? (?:compute capability|sm_?)[ >=]*[789]\.?\d[^\n]{0,20}",
    re.I,
)
_NEEDED = re.compile(r"ampere|bfloat16|turing|volta|hopper", re.I)
_SINCE = {"volta": (7, 0), "turing": (7, 5), "ampere": (8, 0), "bfloat16": (8, 0), "hopper": (9, 0)}


def check(run: Run) -> Found | None:
    """Errors that ask for newer units, or kernels that use units that are not there."""
    chip = run.chip
    error = run.note_with(_ERROR)
    if error is not None and (chip is None or _is_older(chip, error[0])):
        name = chip.name if chip else "this card"
        return Found(
            evidence=f"The record says: “{error[0].strip()}”"
            + (f"; {name} is of compute capability {chip.capability}." if chip else "."),
            cause=f"A kernel or data type was chosen that {name} has no units for.",
            remedy=(
                'Ordinary kernels: transformers attn_implementation="sdpa", dtype=torch.float16; vLLM'
                " --dtype half with VLLM_ATTENTION_BACKEND=XFORMERS; GGUF weights in place of Marlin's; or"
                " pascaline serve MODEL."
            ),
        )
    return (
        _kernels(run, chip)
        if chip is not None and chip.gpu is not None and not chip.has_tensor_cores
        else None
    )


def _is_older(chip: Chip, error: str) -> bool:
    needed = _NEEDED.search(error)
    return not chip.has_tensor_cores or (needed is not None and chip.version < _SINCE[needed[0].lower()])


def _kernels(run: Run, chip: Chip) -> Found | None:
    library = chip.library("fp32")
    kernels = [(row, kernel) for row, kernel in run.kernels if kernel.s and is_tensor_core(kernel.name)]
    if not kernels or library is None:
        return None
    whole_s = sum(row.whole_kernel_s(kernel) for row, kernel in kernels)
    savings = tuple(
        Saving(row.index, kernel.name, row.whole_kernel_s(kernel) - row.whole_flop / library.operations_per_s)
        for row, kernel in kernels
        if row.is_linear
        and row.whole_flop
        and row.whole_flop / library.operations_per_s < row.whole_kernel_s(kernel)
    )
    flop = sum(row.whole_flop or 0.0 for row in {row.index: row for row, _ in kernels}.values())
    measured = (
        f" at {rate(flop / whole_s)}; the library does {rate(library.operations_per_s)} in fp32"
        if flop
        else ""
    )
    return Found(
        evidence=(
            f"{listed(kernel.name for _, kernel in kernels)}: {seconds(whole_s)} of"
            f" {seconds(run.total_s)}{measured}."
        ),
        cause=f"Kernels for tensor cores run on {chip.name}, which has none: they are emulated.",
        remedy="fp32 products (dtype=torch.float32; llama.cpp -DGGML_CUDA_FORCE_MMQ=ON), or pascaline serve.",
        savings=savings,
        kernels=tuple(dict.fromkeys(kernel.name for _, kernel in kernels)),
    )


RULE = Rule("PAS005", "tensor-cores-absent", check)
