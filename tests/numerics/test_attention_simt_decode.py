"""Attention of one new token a sequence without tensor cores, against the op's reference in fp64.

Its bound is that of fp32 arithmetic with maxima that follow the scores once a tile of 32 tokens at most, which also
covers merging warps and splits. Codes of 8 bits take one more rounding of a score and one of a weight, by their scales:
a score's sum of D products has D / 4 + 2 roundings in a row, of D that are allowed for.
"""

from __future__ import annotations

import pytest
import torch
from linear_harness import Execute
from simt_attention_harness import AttentionCase, check_attention

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_simt_decode import SimtDecodeGeometry, plan_attention_simt_decode
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan

CHIP = ChipLimits((6, 1), 28)
_HALF, _BRAIN, _WIDE, _BYTE = torch.float16, torch.bfloat16, torch.float32, torch.int8
_TILE = 32


def _one(*contexts: int, **others: object) -> AttentionCase:
    return AttentionCase((1,) * len(contexts), contexts, **others)  # type: ignore[arg-type]


CASES = (
    _one(1, 15, 16, 17, 31, 32, 33, 300),
    _one(700, 5, cache_dtype=_BYTE),
    _one(129, 64, cache_dtype=_BRAIN, head_dim=128, heads=28, key_value_heads=4),
    _one(200, cache_dtype=_WIDE, head_dim=96, heads=4, key_value_heads=4),
    _one(140, 3, head_dim=8, heads=8, key_value_heads=1),
    _one(140, 40, head_dim=16, heads=9, key_value_heads=1, cache_dtype=_BYTE),
    _one(90, head_dim=80, heads=16, key_value_heads=1),
    _one(77, head_dim=256, heads=8, key_value_heads=4, cache_dtype=_BYTE),
    _one(100, 40, 20, 1, window=24),
    _one(300, 40, window=1, softcap=4.0),
    _one(210, 64, softcap=3.0, key_size=2.0, window=130, cache_dtype=_BYTE),
    _one(180, 33, key_size=6.0, query_padding=5),
    _one(40, table_width=2000, heads=4),
    AttentionCase((1, 0, 1, 3, 1, 0, 0), (20, 0, 40, 7, 3, 0, 0)),
)


def _plan(call: AttentionCall) -> LaunchPlan:
    return plan_attention_simt_decode(call, CHIP)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_decode_without_tensor_cores(case: AttentionCase, execute: Execute) -> None:
    check_attention(_plan, lambda rows: rows == 1, case, execute, keys_at_once=_TILE)


@pytest.mark.parametrize("geometry", [SimtDecodeGeometry(1), SimtDecodeGeometry(3, 2), SimtDecodeGeometry(64, 8, 1)])
def test_any_splits_and_warps(geometry: SimtDecodeGeometry, execute: Execute) -> None:
    case = _one(1300, 70, heads=7, key_value_heads=1, head_dim=32)
    plan = lambda call: plan_attention_simt_decode(call, CHIP, geometry)  # noqa: E731
    check_attention(plan, lambda rows: rows == 1, case, execute, keys_at_once=_TILE)


def test_heads_that_are_refused() -> None:
    for head_dim in (60, 264):
        with pytest.raises(UnsupportedError, match=f"heads of {head_dim}"):
            plan_attention_simt_decode(AttentionCall(1, 1, 4, 4, 4, head_dim, 4 * head_dim), CHIP)
