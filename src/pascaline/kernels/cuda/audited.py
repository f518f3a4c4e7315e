"""Kernels whose machine code the audit reads for every chip, and what it must hold there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from pascaline.hardware.architectures import architectures, capability_numbers
from pascaline.kernels.cuda.attention_bulk_decode import CAPABILITY as BULK_COPIES
from pascaline.kernels.cuda.attention_bulk_decode import BulkDecodeGeometry
from pascaline.kernels.cuda.attention_decode import plan_attention_decode
from pascaline.kernels.cuda.attention_prefill import plan_attention_prefill
from pascaline.kernels.cuda.attention_simt_decode import plan_attention_simt_decode
from pascaline.kernels.cuda.attention_simt_prefill import SimtPrefillGeometry, plan_attention_simt_prefill
from pascaline.kernels.cuda.dequantise import plan_dequantise
from pascaline.kernels.cuda.expectations import MachineCodeExpectation
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_decode import plan_linear_decode
from pascaline.kernels.cuda.linear_dense_decode import plan_linear_dense_decode
from pascaline.kernels.cuda.linear_mma import plan_linear_mma
from pascaline.kernels.cuda.linear_rows import MATRIX_CAPABILITY, plan_linear_rows
from pascaline.kernels.cuda.linear_simt import plan_linear_simt
from pascaline.kernels.cuda.linear_tile import TILE_SCALE_GROUPS, plan_linear_tile
from pascaline.kernels.cuda.linear_wgmma import WGMMA_CAPABILITY, plan_linear_wgmma
from pascaline.kernels.cuda.order_input import plan_order_input
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input
from pascaline.kernels.cuda.representatives import attention_of, chip_limits
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.cuda.step_plans import STEP_PLANS
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import Integers

CHIPS = ("5.0", "5.2", "6.0", "6.1", "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
"""By compute capability."""

INT4 = SlabbedForm(4, 128, torch.float16, zero_bits=4)
Q4_K = SlabbedForm(4, 256, torch.float16, has_offsets=True, integers=Integers.SCALE_OFFSET_6)
Q6_K = SlabbedForm(6, 256, torch.float16, integers=Integers.SCALES_8_8, zero=32)

_OUTPUTS, _COLUMNS = 4608, 3584  # attention's inputs of a model of 7B
_MULTIPROCESSORS = 28
_WHOLE = ((6, 1), (9, 0))
"""Chips for which all forms are compiled; for the others some, which takes half the time."""

WIDE_LOADS = {"gather_rows of fp16": 0, "choose_tokens": 0, "take_sampled": 0}
"""Of launches of a step that load less than 16 bytes a thread at once."""


@dataclass(frozen=True)
class Audited:
    """One launch, and what its kernel's machine code must hold."""

    name: str
    plan: LaunchPlan
    expected: MachineCodeExpectation


def audited(compute_capability: str) -> list[Audited]:
    """Those that a chip ("6.1") may run."""
    chip = ChipLimits(capability_numbers(compute_capability), _MULTIPROCESSORS)
    rates = architectures()[compute_capability].operations_per_clock_per_sm
    cases = [
        *_decode(chip, has_dot_products="int8" in rates),
        *_rows_in_fp32(chip),
        *_attention_simt(chip),
        *_others(chip),
    ]
    if "int8" in rates:
        cases += [*_rows(chip), *_tile(chip)]
    if "tensor_fp16" in rates and chip.compute_capability >= (7, 5):
        cases += _mma(chip)
    if chip.compute_capability >= (8, 0):
        cases += _attention(chip_limits(compute_capability))
    return cases


def _decode(chip: ChipLimits, *, has_dot_products: bool) -> Iterator[Audited]:
    inputs = InputForm(planes=2 if has_dot_products else 0)
    expected = MachineCodeExpectation("IDP" if has_dot_products else "FFMA", wide_loads=2)
    forms = (("int4", INT4, 1), ("Q4_K", Q4_K, 2), ("Q6_K", Q6_K, 1))
    for name, form, rows in forms[: None if chip.compute_capability in _WHOLE else 2]:
        plan = plan_linear_decode(form, LinearCall(rows, _OUTPUTS, _COLUMNS), chip, inputs)
        yield Audited(f"linear_decode {name}, {rows} rows", plan, expected)


def _rows(chip: ChipLimits) -> Iterator[Audited]:
    call = LinearCall(8, _OUTPUTS, _COLUMNS)
    for planes in (2, 1) if chip.compute_capability in _WHOLE else (2,):
        plan = plan_linear_rows(INT4, call, chip, planes)
        expected = MachineCodeExpectation("IDP", wide_loads=1)
        yield Audited(f"linear_rows int4, 8 rows, {planes} planes", plan, expected)
    if chip.compute_capability < MATRIX_CAPABILITY:
        return
    for planes in (2, 1):
        plan = plan_linear_rows(INT4, call, chip, planes, by_tensor_cores=True)
        expected = MachineCodeExpectation("IMMA", most_registers=128, wide_loads=1)
        yield Audited(f"linear_rows int4, 8 rows, {planes} planes by tensor cores", plan, expected)


def _rows_in_fp32(chip: ChipLimits) -> Iterator[Audited]:
    plan = plan_linear_rows(INT4, LinearCall(8, _OUTPUTS, _COLUMNS), chip, 0)
    expected = MachineCodeExpectation("FFMA", 0.7, wide_loads=1)
    yield Audited("linear_rows int4, 8 rows in fp32", plan, expected)


def _tile(chip: ChipLimits) -> Iterator[Audited]:
    """Most of the main loop are dot products; groups of 32 inputs have more to scale.

    On Pascal two blocks of 256 threads fit a multiprocessor; elsewhere, and for small groups, 12 warps of 168
    registers.
    """
    registers = 128 if chip.compute_capability < (7, 0) else 168
    cases = (
        ("int4", INT4, 2, 0.7, registers),
        ("int4", INT4, 1, 0.7, registers),
        ("Q4_K", Q4_K, 2, 0.5, 168),
    )
    for name, form, planes, share, most_registers in cases[
        : None if chip.compute_capability in _WHOLE else 1
    ]:
        inputs = InputForm(planes, TILE_SCALE_GROUPS[planes], is_quantised=True)
        plan = plan_linear_tile(form, LinearCall(512, _OUTPUTS, _COLUMNS), chip, inputs)
        expected = MachineCodeExpectation("IDP", share, most_registers=most_registers, wide_loads=1)
        yield Audited(f"linear_tile {name}, 512 rows, {planes} planes", plan, expected)


def _mma(chip: ChipLimits) -> Iterator[Audited]:
    """Weights become halves for the tensor cores: arithmetic of halves is meant to be there."""
    plan = plan_linear_mma(INT4, LinearCall(16, _OUTPUTS, _COLUMNS), chip)
    expected = MachineCodeExpectation("HMMA", wide_loads=1, has_half_arithmetic=True)
    yield Audited("linear_mma int4, 16 rows", plan, expected)
    if chip.compute_capability != WGMMA_CAPABILITY:
        return
    for rows in (64, 256):
        wide = replace(chip, shared_bytes_per_block=227 << 10)
        plan = plan_linear_wgmma(INT4, LinearCall(rows, _OUTPUTS, _COLUMNS), wide)
        expected = MachineCodeExpectation("HGMMA", has_half_arithmetic=True)
        yield Audited(f"linear_wgmma int4, {rows} rows", plan, expected)
    plan = plan_order_input(64, _COLUMNS, torch.float16)
    yield Audited("order_input, 64 rows", plan, MachineCodeExpectation(most_registers=64))


def _attention(chip: ChipLimits) -> Iterator[Audited]:
    """Beside products the loop has softmaxes, masks and caps, and conversions of codes."""
    cases = (
        ("fp16", attention_of(2048, 1, torch.float16)),
        ("int8", attention_of(2048, 1, torch.int8)),
        ("bf16, soft-capped", attention_of(2048, 1, torch.bfloat16, window=1024, softcap=50.0)),
        ("fp16, heads of 256", attention_of(2048, 1, torch.float16, head_dim=256)),
    )
    for name, call in cases[: None if chip.compute_capability in _WHOLE else 2]:
        plan = plan_attention_prefill(call, chip)
        is_wide = plan.specialisation.entry == "attention_wgmma"
        # Of 64 products an instruction there are fewer than of fp32, which bring shares together.
        expected = MachineCodeExpectation() if is_wide else MachineCodeExpectation("HMMA", 0.08)
        yield Audited(f"attention_prefill {name}", plan, expected)
        plan = plan_attention_decode(replace(call, tokens=64, sequences=64), chip)
        # Of products there are fewer than of what brings sums of blocks together.
        is_coded = call.cache_dtype == torch.int8
        expected = MachineCodeExpectation(wide_loads=8, has_half_arithmetic=is_coded)
        yield Audited(f"attention_decode {name}", plan, expected)
    if chip.compute_capability >= BULK_COPIES:
        call = attention_of(64, 64, torch.float16)
        for pieces in ((1, 1), (2, 4)):
            plan = plan_attention_decode(call, chip, BulkDecodeGeometry(8, 2, 4, *pieces))
            expected = MachineCodeExpectation(wide_loads=8)
            yield Audited(f"attention_bulk_decode in {pieces} pieces", plan, expected)


def _attention_simt(chip: ChipLimits) -> Iterator[Audited]:
    """Multiply-adds, of which a decoding loop converts what it multiplies by seven heads."""
    types = (("fp16", torch.float16), ("int8", torch.int8), ("fp32", torch.float32))
    for name, dtype in types[: None if chip.compute_capability in _WHOLE else 1]:
        plan = plan_attention_simt_decode(attention_of(1, 1, dtype), chip)
        expected = MachineCodeExpectation("FFMA", 0.6, wide_loads=0 if dtype == torch.int8 else 8)
        yield Audited(f"attention_simt_decode {name}", plan, expected)
        for tokens in (2048, 5):
            plan = plan_attention_simt_prefill(attention_of(tokens, 1, dtype), chip)
            assert isinstance(plan.geometry, SimtPrefillGeometry)  # noqa: S101 - its own
            expected = MachineCodeExpectation(
                "FFMA", 0.75, most_registers=168 if plan.geometry.blocks == 3 else 255, wide_loads=2
            )
            yield Audited(f"attention_simt_prefill {name}, {tokens} tokens", plan, expected)


def _others(chip: ChipLimits) -> Iterator[Audited]:
    plan = plan_linear_simt(INT4, LinearCall(512, _OUTPUTS, _COLUMNS), chip)
    expected = MachineCodeExpectation("FFMA", 0.7, most_registers=168, wide_loads=1)
    yield Audited("linear_simt int4, 512 rows", plan, expected)
    plan = plan_dequantise(INT4, _OUTPUTS, _COLUMNS, torch.float16)
    yield Audited("dequantise int4", plan, MachineCodeExpectation(most_registers=96, wide_loads=1))
    plan = plan_quantise_input(16, _COLUMNS, torch.float16, planes=2, scale_group=32)
    yield Audited("quantise_input, 16 rows", plan, MachineCodeExpectation(most_registers=64))
    plan = plan_linear_dense_decode(LinearCall(1, _OUTPUTS, _COLUMNS), torch.bfloat16, chip)
    yield Audited("linear_dense_decode bf16, 1 row", plan, MachineCodeExpectation("FFMA", wide_loads=1))
    for name, plan in STEP_PLANS.items():
        yield Audited(
            name, plan, MachineCodeExpectation(most_registers=64, wide_loads=WIDE_LOADS.get(name, 1))
        )
