"""Cards and processors with the shares of their limits that are reached: where a plan's speeds come from."""

from __future__ import annotations

from dataclasses import replace

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.architectures import Arithmetic, capability_numbers
from pascaline.hardware.cpu import Cpu, why_plain_torch
from pascaline.hardware.efficiency import Efficiency, efficiency_of, library_efficiency
from pascaline.hardware.gpus import Gpu
from pascaline.hardware.measured import MeasuredRates
from pascaline.workload.arithmetic import Chip, Way

_GPU_WAYS: tuple[tuple[str, Arithmetic, int], ...] = (
    ("fp32", "fp32", 1),
    ("bf16 tensor cores", "tensor_bf16", 8),
    ("fp16 tensor cores", "tensor_fp16", 8),
    ("half arithmetic", "fp16", 1),
    ("dp4a int8", "int8", 1),
    ("int8 tensor cores", "tensor_int8", 8),
)
"""Name, unit, and the rows that it takes at a time; the most exact first."""

_SUMS_IN_HALF: Arithmetic = "fp16"
"""Outside of tensor cores, which sum in fp32: to widen sums as often as it takes costs more than it saves."""

_NATIVE_INT8 = {"avx512-vnni": 0.62, "avx2": 0.6, "neon-dotprod": 0.5}
_NATIVE_FORMS = {"Q4_1": 0.94, "Q5_1": 0.94, "Q3_K": 0.8, "Q6_K": 0.8}
_NATIVE_FP32 = 0.5
_NATIVE_ATTENTION = 0.72
_NATIVE_BANDWIDTH = 1.0
_NATIVE_EXPOSED, _NATIVE_ATTENTION_EXPOSED = 0.4, 0.7
_NATIVE_STEP_S = 2e-4
_TORCH_FP32 = 0.6
_CPU_SPREAD = 0.2
"""Shares that native kernels and plain torch reach of what is measured on the processor, found on an EPYC of
two cores with AVX-512 VNNI (benchmarks/plan_vs_measured.py); on ARM presumed."""


def gpu_chip(gpu: Gpu, measured: MeasuredRates | None = None) -> Chip:
    """What a good engine reaches on a card: modelled, or at the clock that `bench gemm --save` measured."""
    roofline = gpu.roofline(None if measured is None else measured.clock_mhz)
    known = {
        arithmetic: (name, rows, share)
        for name, arithmetic, rows in _GPU_WAYS
        if roofline.operations_per_s.get(arithmetic) and (share := _share(gpu, arithmetic)) is not None
    }
    ways = tuple(
        Way(
            name,
            arithmetic,
            roofline.operations_per_s[arithmetic] * share.compute,
            roofline.bytes_per_s * share.bandwidth,
            row_multiple=rows,
            sums_in_half=arithmetic == _SUMS_IN_HALF,
        )
        for arithmetic, (name, rows, share) in known.items()
    )
    single = known["fp32"][2]
    attention: Arithmetic = "tensor_fp16" if "tensor_fp16" in known else "fp32"
    return Chip(
        roofline=roofline,
        ways=ways,
        scalar_operations_per_s=roofline.operations_per_s["fp32"] * single.compute,
        attention_arithmetic=attention,
        attention_operations_per_s=roofline.operations_per_s[attention] * known[attention][2].compute,
        bytes_per_s=roofline.bytes_per_s * single.bandwidth,
        launch_s=single.launch_s,
        step_s=0.0,
        spread=single.spread,
        source=single.source,
    )


_OWN_UNITS = frozenset({"fp32", "int8", "tensor_fp16", "tensor_bf16"})
"""That linears of our own multiply in."""

_ATTENTION_BY_TENSOR_CORES = (8, 0)
"""The first compute capability whose tensor cores our attention multiplies with."""


def gpu_own_chip(gpu: Gpu, measured: MeasuredRates | None = None) -> Chip:
    """What this version computes with on a card: its own kernels, of which some ask for newer tensor cores.

    Steps of decoding are replayed; a prompt's are launched while the card computes what was launched before.
    What `bench gemm` saved is plain torch's linear, and none of `gpu_chip`'s.
    """
    chip = gpu_chip(gpu, measured)
    fraction, _ = library_efficiency(gpu.compute_capability, "fp32")
    rate = chip.roofline.operations_per_s["fp32"] * fraction
    torch = Way(
        "torch fp32",
        "fp32",
        rate,
        chip.bytes_per_s,
        copied_bytes_per_weight=8.0,
        measured={} if measured is None else measured.linears,
    )
    own = replace(chip, ways=(*(way for way in chip.ways if way.arithmetic in _OWN_UNITS), torch))
    if capability_numbers(gpu.compute_capability) >= _ATTENTION_BY_TENSOR_CORES:
        return own
    return replace(own, attention_arithmetic="fp32", attention_operations_per_s=chip.scalar_operations_per_s)


def cpu_chip(cpu: Cpu) -> Chip:
    """What this version's engine reaches on this processor."""
    roofline = cpu.roofline()
    fp32, bandwidth = roofline.operations_per_s["fp32"], cpu.bytes_per_s * _NATIVE_BANDWIDTH
    torch = Way("torch fp32", "fp32", fp32 * _TORCH_FP32, bandwidth, copied_bytes_per_weight=8.0)
    saved = {} if cpu.measured is None else cpu.measured.linears
    if cpu.instructions is None:
        ways: tuple[Way, ...] = (torch,)
        source = f"plain torch computes: {why_plain_torch()}"
    else:
        int8 = Way(
            f"native int8 ({cpu.instructions})",
            "int8",
            roofline.operations_per_s["int8"] * _NATIVE_INT8[cpu.instructions],
            bandwidth,
            share_by_form=_NATIVE_FORMS,
            measured=saved,
            exposed=_NATIVE_EXPOSED,
        )
        dense = Way(
            f"native fp32 ({cpu.instructions})",
            "fp32",
            fp32 * _NATIVE_FP32,
            bandwidth,
            only="dense",
            measured=saved,
        )
        ways = (dense, int8, torch)
        source = (
            "bench gemm --save" if cpu.measured else "shares found on one processor: docs/reference/plan.md"
        )
    return Chip(
        roofline=roofline,
        ways=ways,
        scalar_operations_per_s=fp32 * _NATIVE_FP32,
        attention_arithmetic="fp32",
        attention_operations_per_s=fp32 * _NATIVE_ATTENTION,
        bytes_per_s=bandwidth,
        launch_s=roofline.launch_s,
        step_s=_NATIVE_STEP_S,
        attention_exposed=_NATIVE_ATTENTION_EXPOSED,
        spread=_CPU_SPREAD,
        source=source,
    )


def _share(gpu: Gpu, arithmetic: Arithmetic) -> Efficiency | None:
    """None where nothing is known of a unit on such a chip."""
    try:
        return efficiency_of(gpu.compute_capability, arithmetic)
    except UnsupportedError:
        return None
