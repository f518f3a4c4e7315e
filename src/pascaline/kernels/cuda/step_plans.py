"""Launches of a 7B model's step beside its linears and attention: what stands for them where code is made."""

from __future__ import annotations

import torch

from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.gated_input import plan_gated_input
from pascaline.kernels.cuda.gather_rows import plan_gather_packed, plan_gather_rows
from pascaline.kernels.cuda.input_memory import BrainForm, ScaledForm
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.rotary import plan_rotary
from pascaline.kernels.cuda.rotate_and_store import HeadNorm, plan_rotate_and_store
from pascaline.kernels.cuda.sampling import plan_choose_tokens, plan_filter_tokens, plan_shape_logits
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.kernels.cuda.store_rows import plan_store_rows
from pascaline.kernels.cuda.take_sampled import plan_take_sampled
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import Integers

_ROWS, _HIDDEN, _INNER = 4, 3584, 18944
_HEADS, _KEY_HEADS, _HEAD_DIM = 28, 4, 128
_VOCABULARY, _POSITIONS, _PAGES, _PAGE_SIZE = 152064, 32768, 64, 16
_Q6_K = SlabbedForm(6, 256, torch.float16, integers=Integers.SCALES_8_8, zero=32)


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _cache(dtype: torch.dtype) -> torch.Tensor:
    return _meta(_PAGES, _KEY_HEADS, _PAGE_SIZE, _HEAD_DIM, dtype=dtype).transpose(1, 2)


_X, _QUERY, _KEY = _meta(_ROWS, _HIDDEN), _meta(_ROWS, _HEADS, _HEAD_DIM), _meta(_ROWS, _KEY_HEADS, _HEAD_DIM)
_GATED, _LOGITS, _ANGLES = _meta(_ROWS, _INNER), _meta(_ROWS, _VOCABULARY), _meta(_POSITIONS, _HEAD_DIM // 2)

STEP_PLANS: dict[str, LaunchPlan] = {
    "rms_norm": plan_rms_norm(_X, torch.bfloat16, 1e-6),
    "rms_norm of heads": plan_rms_norm(_QUERY, torch.float32, 1e-6),
    "rms_norm of a sum": plan_rms_norm(_X, torch.bfloat16, 1e-6, residual=_X),
    "rms_norm of a sum, two planes": plan_rms_norm(
        _X, torch.float16, 1e-6, residual=_X, form=InputForm(2, 32)
    ),
    "rms_norm in another order, one plane": plan_rms_norm(
        _X, torch.float16, 1e-6, form=InputForm(1, 32, has_permutation=True)
    ),
    "quantise_gated, two planes": plan_gated_input(Operation.SILU_AND_MUL, _GATED, _GATED, InputForm(2, 32)),
    "rms_norm of a sum, scaled": plan_rms_norm(_X, torch.float16, 1e-6, residual=_X, form=ScaledForm()),
    "scale_gated": plan_gated_input(Operation.SILU_AND_MUL, _GATED, _GATED, ScaledForm()),
    "rms_norm of a sum, in bf16": plan_rms_norm(_X, torch.bfloat16, 1e-6, residual=_X, form=BrainForm(1)),
    "rms_norm, in two bf16 numbers": plan_rms_norm(_X, torch.bfloat16, 1e-6, form=BrainForm(2)),
    "round_gated": plan_gated_input(Operation.SILU_AND_MUL, _GATED, _GATED, BrainForm(1)),
    "rotate_and_store in fp16": plan_rotate_and_store(_QUERY, _KEY, _KEY, _ANGLES, _cache(torch.float16)),
    "rotate_and_store in int8, with norms": plan_rotate_and_store(
        _QUERY, _KEY, _KEY, _ANGLES, _cache(torch.int8), HeadNorm(torch.bfloat16, 1e-6)
    ),
    "rotary": plan_rotary(_QUERY, _ANGLES),
    "store_rows in fp16": plan_store_rows(_KEY, _cache(torch.float16)),
    "store_rows in bf16": plan_store_rows(_KEY, _cache(torch.bfloat16)),
    "store_rows in int8": plan_store_rows(_KEY, _cache(torch.int8)),
    "gather_rows of fp16": plan_gather_rows(
        _ROWS, _meta(_VOCABULARY, _HIDDEN, dtype=torch.float16), names=("table", "token_ids")
    ),
    "gather_rows": plan_gather_rows(_ROWS, _X, names=("x", "rows")),
    "gather_packed of Q6_K": plan_gather_packed(_Q6_K, _ROWS, _VOCABULARY, _HIDDEN, indices="token_ids"),
    "elementwise add": plan_elementwise(Operation.ADD, _X, _X, names=("x", "residual", "y")),
    "elementwise scale": plan_elementwise(Operation.SCALE, _X, names=("x", "absent", "x"), number=60.0),
    "elementwise soft_cap": plan_elementwise(
        Operation.SOFT_CAP, _LOGITS, names=("x", "absent", "x"), number=30.0
    ),
    "elementwise silu_and_mul": plan_elementwise(
        Operation.SILU_AND_MUL, _GATED, _GATED, names=("gate", "up", "y")
    ),
    "elementwise gelu_and_mul": plan_elementwise(
        Operation.GELU_AND_MUL, _GATED, _GATED, names=("gate", "up", "y")
    ),
    "take_sampled": plan_take_sampled(64),
    "shape_logits": plan_shape_logits(_ROWS, _VOCABULARY, _VOCABULARY),
    "choose_tokens": plan_choose_tokens(_ROWS, _VOCABULARY, _VOCABULARY),
    "filter_tokens": plan_filter_tokens(_ROWS, _VOCABULARY, _VOCABULARY),
}
"""By names that begin with the kernel's."""
