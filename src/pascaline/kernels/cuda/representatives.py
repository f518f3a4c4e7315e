"""Launches that stand for all others where machine code is made for every chip.

Each source is among them, and each form of weight, type of numbers and epilogue with some of the sources.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.hardware.architectures import Arithmetic, architectures, capability_numbers
from pascaline.kernels.cuda.attention_bulk_decode import BulkDecodeGeometry
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_decode import plan_attention_decode
from pascaline.kernels.cuda.attention_prefill import PrefillGeometry, plan_attention_prefill
from pascaline.kernels.cuda.attention_simt_decode import plan_attention_simt_decode
from pascaline.kernels.cuda.attention_simt_prefill import plan_attention_simt_prefill
from pascaline.kernels.cuda.dequantise import plan_dequantise
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_decode import plan_linear_decode
from pascaline.kernels.cuda.linear_dense_decode import plan_linear_dense_decode
from pascaline.kernels.cuda.linear_mma import plan_linear_mma
from pascaline.kernels.cuda.linear_rows import plan_linear_rows
from pascaline.kernels.cuda.linear_simt import plan_linear_simt
from pascaline.kernels.cuda.linear_tile import TILE_SCALE_GROUPS, plan_linear_tile
from pascaline.kernels.cuda.linear_wgmma import plan_linear_wgmma
from pascaline.kernels.cuda.order_input import plan_order_input
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input
from pascaline.kernels.cuda.scale_back import plan_scale_back
from pascaline.kernels.cuda.scale_rows import plan_scale_rows
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.cuda.step_plans import STEP_PLANS
from pascaline.kernels.packed_cases import PACKED_FORMS, PackedForm, random_packed
from pascaline.weights.slab_layout import slabbed_form
from pascaline.weights.slabbed import SlabbedForm

FORMS: dict[str, PackedForm] = {
    **PACKED_FORMS,
    "IQ4_NL": PackedForm(4, 32, (32,), table=True),
    "GPTQ 4 bits, symmetric": PackedForm(4, 128, (2,), zero=8),
}
"""Those that checkpoints come in."""

_OUTPUTS, _COLUMNS = 4608, 3584  # attention's inputs of a model of 7B
_HEADS, _KEY_VALUE_HEADS = 28, 4
_MULTIPROCESSORS = 28
_HALF, _BRAIN, _WIDE = torch.float16, torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Representative:
    """One launch on any chip.

    Parameters
    ----------
    unit : of a chip, that the kernel multiplies with.
    plan : the launch on a chip.
    """

    name: str
    unit: Arithmetic
    plan: Callable[[ChipLimits], LaunchPlan]

    def on(self, chip: ChipLimits) -> LaunchPlan | None:
        """The launch, None if the chip has no such unit or the kernel refuses it."""
        architecture = architectures()["{}.{}".format(*chip.compute_capability)]
        if self.unit not in architecture.operations_per_clock_per_sm:
            return None
        try:
            return self.plan(chip)
        except UnsupportedError:
            return None


def chip_limits(compute_capability: str) -> ChipLimits:
    """Of a card of middling size with such a chip ("6.1")."""
    architecture = architectures()[compute_capability]
    return ChipLimits(
        capability_numbers(compute_capability),
        _MULTIPROCESSORS,
        architecture.shared_memory_kib_per_block << 10,
    )


@functools.cache
def slabbed(name: str) -> SlabbedForm:
    """The form in slabs of one of `FORMS`."""
    found = slabbed_form(random_packed(FORMS[name], 8, 1024, torch.Generator().manual_seed(0)))
    assert isinstance(found, SlabbedForm), found  # noqa: S101 - slabs hold all of them
    return found


def call_of(
    rows: int,
    dtype: torch.dtype = _WIDE,
    *,
    bias: torch.dtype | None = None,
    has_residual: bool = False,
    is_gated: bool = False,
) -> LinearCall:
    """A product of so many rows; x and y are of `dtype`."""
    return LinearCall(rows, _OUTPUTS, _COLUMNS, dtype, dtype, bias, has_residual, is_gated)


def _decode(form: str, call: LinearCall, planes: int) -> Representative:
    inputs = InputForm(planes, has_permutation=FORMS[form].permutation)
    return Representative(
        f"linear_decode of {form}, {call.rows} rows, {planes} planes",
        "int8" if planes else "fp32",
        lambda chip: plan_linear_decode(slabbed(form), call, chip, inputs),
    )


def _rows(form: str, call: LinearCall, planes: int) -> Representative:
    is_permuted = FORMS[form].permutation
    return Representative(
        f"linear_rows of {form}, {call.rows} rows, {planes} planes",
        "int8" if planes else "fp32",
        lambda chip: plan_linear_rows(slabbed(form), call, chip, planes, has_permutation=is_permuted),
    )


def _rows_by_tensor_cores(form: str, call: LinearCall, planes: int) -> Representative:
    return Representative(
        f"linear_rows of {form}, {call.rows} rows, {planes} planes by tensor cores",
        "tensor_int8",
        lambda chip: plan_linear_rows(slabbed(form), call, chip, planes, by_tensor_cores=True),
    )


def _tile(form: str, call: LinearCall, planes: int) -> Representative:
    inputs = InputForm(planes, TILE_SCALE_GROUPS[planes], is_quantised=True)
    return Representative(
        f"linear_tile of {form}, {call.rows} rows, {planes} planes",
        "int8",
        lambda chip: plan_linear_tile(slabbed(form), call, chip, inputs),
    )


def _mma(form: str, call: LinearCall) -> Representative:
    is_permuted = FORMS[form].permutation
    return Representative(
        f"linear_mma of {form}, {call.rows} rows",
        "tensor_bf16" if call.input_dtype == _BRAIN else "tensor_fp16",
        lambda chip: plan_linear_mma(slabbed(form), call, chip, is_permuted=is_permuted),
    )


def _wgmma(form: str, call: LinearCall) -> Representative:
    return Representative(
        f"linear_wgmma of {form}, {call.rows} rows",
        "tensor_fp16",
        lambda chip: plan_linear_wgmma(slabbed(form), call, chip),
    )


def _simt(form: str, call: LinearCall) -> Representative:
    is_permuted = FORMS[form].permutation
    return Representative(
        f"linear_simt of {form}, {call.rows} rows",
        "fp32",
        lambda chip: plan_linear_simt(slabbed(form), call, chip, has_permutation=is_permuted),
    )


def _dense_simt(dtype: torch.dtype, call: LinearCall) -> Representative:
    return Representative(
        f"linear_simt of {dtype}, {call.rows} rows", "fp32", lambda chip: plan_linear_simt(dtype, call, chip)
    )


def _dense_decode(dtype: torch.dtype, call: LinearCall) -> Representative:
    return Representative(
        f"linear_dense_decode of {dtype}, {call.rows} rows",
        "fp32",
        lambda chip: plan_linear_dense_decode(call, dtype, chip),
    )


def _dequantise(form: str, dtype: torch.dtype) -> Representative:
    return Representative(
        f"dequantise of {form} to {dtype}",
        "fp32",
        lambda _: plan_dequantise(slabbed(form), _OUTPUTS, _COLUMNS, dtype),
    )


def _quantise_input(
    dtype: torch.dtype, planes: int, scale_group: int, *, has_permutation: bool
) -> Representative:
    return Representative(
        f"quantise_input of {dtype}, {planes} planes",
        "int8",
        lambda _: plan_quantise_input(
            16, _COLUMNS, dtype, planes, scale_group, has_permutation=has_permutation
        ),
    )


def attention_of(
    tokens: int,
    sequences: int,
    cache_dtype: torch.dtype,
    *,
    head_dim: int = 128,
    window: int = 0,
    softcap: float = 0.0,
) -> AttentionCall:
    """So many tokens' of a 7B model."""
    stride = (_HEADS + 2 * _KEY_VALUE_HEADS) * head_dim
    return AttentionCall(
        *(tokens, sequences, 2048 // 16, _HEADS, _KEY_VALUE_HEADS, head_dim, stride, cache_dtype),
        window=window,
        softcap=softcap,
        scale=head_dim**-0.5,
    )


def _attention_decode(call: AttentionCall, most_rows: int = 1) -> Representative:
    return Representative(
        f"attention_decode of {call.cache_dtype}, heads of {call.head_dim}",
        "tensor_bf16" if call.cache_dtype == _BRAIN else "tensor_fp16",
        lambda chip: plan_attention_decode(call, chip, most_rows=most_rows),
    )


def _bulk_decode(call: AttentionCall, geometry: BulkDecodeGeometry, most_rows: int = 1) -> Representative:
    return Representative(
        f"attention_bulk_decode of {call.cache_dtype}, heads of {call.head_dim}",
        "tensor_bf16" if call.cache_dtype == _BRAIN else "tensor_fp16",
        lambda chip: plan_attention_decode(call, chip, geometry, most_rows=most_rows),
    )


def _prefill(call: AttentionCall) -> Representative:
    return Representative(
        f"attention_prefill of {call.cache_dtype}, heads of {call.head_dim}",
        "tensor_bf16" if call.cache_dtype == _BRAIN else "tensor_fp16",
        lambda chip: plan_attention_prefill(call, chip),
    )


def _attention_simt(call: AttentionCall) -> Representative:
    """Of one token a sequence, or several."""
    phase, plan = (
        ("decode", plan_attention_simt_decode)
        if call.tokens == call.sequences
        else ("prefill", plan_attention_simt_prefill)
    )
    name = f"attention_simt_{phase} of {call.cache_dtype}, heads of {call.head_dim}, {call.tokens} tokens"
    return Representative(name, "fp32", lambda chip: plan(call, chip))


def _prefill_by_warpgroups(call: AttentionCall) -> Representative:
    geometry = PrefillGeometry(8, 1, 64, 2, 1, by_warpgroups=True)
    return Representative(
        f"attention_wgmma of {call.cache_dtype}, heads of {call.head_dim}",
        "tensor_fp16",
        lambda chip: plan_attention_prefill(call, chip, geometry),
    )


def _of_a_step(name: str) -> Representative:
    return Representative(name, "fp32", lambda _: STEP_PLANS[name])


REPRESENTATIVES: tuple[Representative, ...] = (
    _decode("GPTQ 4 bits", call_of(1, bias=_HALF), planes=2),
    _decode("Q4_K", call_of(2, _HALF, is_gated=True), planes=2),
    _decode("Q6_K", call_of(1, has_residual=True), planes=2),
    _decode("MXFP4", call_of(1, _BRAIN), planes=1),
    _decode("GPTQ 4 bits, symmetric", call_of(1, _HALF, bias=_HALF), planes=0),
    _decode("Q3_K", call_of(2), planes=0),
    _rows("GPTQ 4 bits", call_of(8, is_gated=True), planes=2),
    _rows("Q2_K", call_of(3, _HALF, has_residual=True), planes=1),
    _rows("GPTQ 4 bits", call_of(16, _HALF, bias=_HALF), planes=0),
    _rows_by_tensor_cores("GPTQ 4 bits", call_of(8, _HALF, bias=_HALF), planes=2),
    _rows_by_tensor_cores("Q6_K", call_of(16, is_gated=True), planes=1),
    _tile("GPTQ 4 bits", call_of(512, bias=_HALF), planes=2),
    _tile("IQ4_NL", call_of(64, _HALF, has_residual=True), planes=1),
    _tile("Q5_K", call_of(32, is_gated=True), planes=2),
    _mma("GPTQ 4 bits", call_of(16, _HALF, bias=_HALF)),
    _mma("Q8_0", call_of(64, _BRAIN, has_residual=True)),
    _mma("IQ4_XS", call_of(8, _HALF, is_gated=True)),
    _wgmma("GPTQ 4 bits", call_of(128, _HALF, bias=_HALF)),
    _wgmma("MXFP4", call_of(32, _HALF, is_gated=True)),
    Representative(
        "order_input of torch.float16",
        "tensor_fp16",
        lambda _: plan_order_input(64, _COLUMNS, _HALF, is_permuted=True),
    ),
    _simt("GPTQ 4 bits", call_of(512, bias=_HALF)),
    _simt("Q6_K", call_of(32, _HALF, is_gated=True)),
    _dense_simt(_BRAIN, call_of(64, has_residual=True)),
    _dense_decode(_HALF, call_of(1, bias=_HALF)),
    _dense_decode(_BRAIN, call_of(4, _HALF, is_gated=True)),
    _dequantise("GPTQ 4 bits", _HALF),
    _dequantise("GPTQ 2 bits", _BRAIN),
    _quantise_input(_WIDE, 2, 128, has_permutation=True),
    _quantise_input(_HALF, 1, 32, has_permutation=False),
    Representative(
        "scale_rows of torch.float32",
        "tensor_fp16",
        lambda _: plan_scale_rows(512, _COLUMNS, _WIDE, is_permuted=True),
    ),
    Representative(
        "scale_rows of torch.float32, whole vectors",
        "tensor_fp16",
        lambda _: plan_scale_rows(32, _COLUMNS, _WIDE),
    ),
    Representative(
        "scale_back with a bias",
        "tensor_fp16",
        lambda _: plan_scale_back(call_of(32, bias=_HALF)),
    ),
    _attention_decode(attention_of(64, 64, _HALF)),
    _attention_decode(attention_of(1, 1, torch.int8)),
    _attention_decode(attention_of(16, 16, _BRAIN, head_dim=64, window=4096)),
    _attention_decode(attention_of(40, 8, _HALF, head_dim=256, window=1024, softcap=50.0), most_rows=8),
    _attention_decode(attention_of(4, 4, torch.int8, head_dim=80)),
    _bulk_decode(attention_of(64, 64, _HALF), BulkDecodeGeometry(8, 2)),
    _bulk_decode(attention_of(64, 64, _HALF), BulkDecodeGeometry(4, 2, 4, 2, 4, blocks=2, least_pages=4)),
    _bulk_decode(
        attention_of(40, 8, _BRAIN, head_dim=64, window=1024, softcap=50.0), BulkDecodeGeometry(8, 3, 4), 8
    ),
    _prefill(attention_of(2048, 1, _HALF)),
    _prefill(attention_of(2048, 1, _BRAIN, head_dim=64, window=4096)),
    _prefill(attention_of(512, 16, torch.int8)),
    _prefill_by_warpgroups(attention_of(2048, 1, _HALF)),
    _prefill_by_warpgroups(attention_of(512, 16, _BRAIN, head_dim=64, window=1024, softcap=50.0)),
    _prefill(attention_of(512, 16, _HALF, head_dim=256, window=1024, softcap=50.0)),
    _attention_simt(attention_of(1, 1, _HALF)),
    _attention_simt(attention_of(4, 4, _WIDE, head_dim=80)),
    _attention_simt(attention_of(16, 16, _BRAIN, head_dim=64, window=1024)),
    _attention_simt(attention_of(16, 16, torch.int8, head_dim=256, softcap=50.0)),
    _attention_simt(attention_of(2048, 1, _HALF)),
    _attention_simt(attention_of(5, 1, _HALF)),
    _attention_simt(attention_of(4, 1, _HALF)),
    _attention_simt(attention_of(512, 4, _WIDE, head_dim=80)),
    _attention_simt(attention_of(512, 16, _BRAIN, head_dim=64, window=1024)),
    _attention_simt(attention_of(512, 16, torch.int8, head_dim=256, softcap=50.0)),
    *map(_of_a_step, STEP_PLANS),
)
