"""Torch's half-precision kernels on Pascal cards of capability 6.1

## Pattern
Elementwise kernels, norms and softmaxes of torch on half tensors, on a chip with hardly any half units.

## Evidence
Time in kernels like `vectorized_elementwise_kernel<…, c10::Half>` on compute capability 6.1 or 6.2; where
the bytes are known, at less than half of the memory's bandwidth.

## Cause
Torch's wheels hold no machine code for 6.1: it runs that for 6.0, which converts half to float with an
addition in half (HADD2.F32). The P100 does 128 of these a clock and multiprocessor, a 6.1 chip 2.

## Remedy
fp32 activations (in vLLM and transformers `--dtype float32` or `dtype=torch.float32`, if memory allows),
or kernels compiled for the card, which convert on another pipe: `pascaline serve MODEL`.

## Saving
Modelled: a conversion at each load and store, at 2 a clock and multiprocessor, against the same elements
at the memory's bandwidth. The true cost on such a card was not measured by us.

## References
- CUDA C++ Programming Guide 12, arithmetic instructions: throughput by compute capability
- https://github.com/SeanNaren/deepspeech.pytorch/issues/55 (TITAN X (Pascal): 0.07 s in fp32, 0.14 s in fp16)
"""

from __future__ import annotations

from pascaline.diagnose.finding import Found, Saving
from pascaline.diagnose.kernel_names import is_half_elementwise
from pascaline.diagnose.names import listed
from pascaline.diagnose.rule import Rule
from pascaline.diagnose.run import MeasuredRow, Run
from pascaline.report.numbers import bandwidth, seconds, share

_SLOW = 0.25
_OF_BANDWIDTH = 0.5
_CONVERSIONS_PER_ELEMENT = 2
_BYTES_PER_ELEMENT = 4
"""Read and written once, two bytes each: what the fewest conversions a byte give."""


def check(run: Run) -> Found | None:
    """Torch's kernels on half tensors, on a chip that converts slowly."""
    chip = run.chip
    if chip is None or chip.gpu is None or chip.version[0] != 6 or not 0 < chip.ratio("fp16") < _SLOW:
        return None
    limit = chip.gpu.bandwidth_gb_per_s * 1e9
    # A half2 operation counts 4 (two multiply-adds): conversions go one element an instruction lane.
    conversions_per_s = (chip.roof("fp16") or 0.0) / 2
    converted_bytes_per_s = conversions_per_s / _CONVERSIONS_PER_ELEMENT * _BYTES_PER_ELEMENT
    left = min(converted_bytes_per_s / limit, 1.0)
    kernels = [
        (row, kernel)
        for row, kernel in run.kernels
        if kernel.s and is_half_elementwise(kernel.name) and not _is_fast(row, limit)
    ]
    if not kernels or left >= 1.0:
        return None
    savings = tuple(
        Saving(row.index, kernel.name, row.whole_kernel_s(kernel) * (1 - left)) for row, kernel in kernels
    )
    whole_s = sum(row.whole_kernel_s(kernel) for row, kernel in kernels)
    return Found(
        evidence=(
            f"{listed(kernel.name for _, kernel in kernels)}: {seconds(whole_s)} of {seconds(run.total_s)}"
            f" ({share(whole_s, run.total_s)}). Two conversions an element at"
            f" {conversions_per_s / 1e9:.3g}e9 a second keep them at {bandwidth(converted_bytes_per_s)} of"
            f" the memory's {bandwidth(limit)}: {seconds(whole_s)} × (1 − {left:.2f}) can be saved"
            " (modelled)."
        ),
        cause=(
            f"Torch's binaries hold no code for {chip.sm}: the sm_60 kernels that run convert half to float"
            " with half additions, of which this chip does 2 a clock and multiprocessor."
        ),
        remedy=(
            "fp32 activations (vLLM: --dtype float32; transformers: dtype=torch.float32), or kernels"
            " compiled for this card: pascaline serve MODEL."
        ),
        savings=savings,
    )


def _is_fast(row: MeasuredRow, limit: float) -> bool:
    return (
        row.whole_bytes is not None
        and row.whole_s > 0
        and row.whole_bytes / row.whole_s > _OF_BANDWIDTH * limit
    )


RULE = Rule("PAS003", "half-conversions", check)
