"""Attention of several new tokens a sequence without tensor cores, against the op's reference in fp64.

Its bound is that of fp32 arithmetic with maxima that follow the scores once a tile of 64 tokens at most. Codes of 8
bits take one more rounding of a score and one of a weight, by their scales: the op allows for more roundings of
scores than a scale of a token times that of all, and for weights' division, which here is of their sums.
"""

from __future__ import annotations

import pytest
import torch
from linear_harness import Execute
from simt_attention_harness import AttentionCase, check_attention

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_simt_prefill import plan_attention_simt_prefill
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan

CHIP = ChipLimits((6, 1), 28)
_HALF, _BRAIN, _WIDE, _BYTE = torch.float16, torch.bfloat16, torch.float32, torch.int8
_TILE = 64

CASES = (
    AttentionCase((37,), (37,)),
    AttentionCase((20,), (150,), head_dim=128, heads=7, key_value_heads=1),
    AttentionCase((5, 1, 0, 30, 2, 0), (9, 40, 0, 95, 130, 0), heads=8, cache_dtype=_BYTE),
    AttentionCase((66,), (70,), heads=4, key_value_heads=4, head_dim=32, cache_dtype=_WIDE),
    AttentionCase((65,), (65,), heads=1, key_value_heads=1, head_dim=8),
    AttentionCase((9,), (33,), heads=9, key_value_heads=1, head_dim=80, cache_dtype=_BRAIN),
    AttentionCase((7, 3), (80, 20), heads=8, key_value_heads=2, head_dim=256, cache_dtype=_BYTE),
    AttentionCase((6,), (70,), heads=4, key_value_heads=1, head_dim=200),
    AttentionCase((40,), (190,), heads=2, key_value_heads=1, head_dim=96, window=70),
    AttentionCase((90,), (100,), heads=1, key_value_heads=1, head_dim=16, window=1),
    AttentionCase((30,), (140,), heads=4, softcap=3.0, window=33, key_size=2.0, cache_dtype=_BYTE),
    AttentionCase((64,), (130,), heads=2, key_size=6.0, query_padding=8),
    AttentionCase((2,) * 40, tuple(range(2, 42)), heads=4, head_dim=16, table_width=50),
)


def _plan(call: AttentionCall) -> LaunchPlan:
    return plan_attention_simt_prefill(call, CHIP)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_prefill_without_tensor_cores(case: AttentionCase, execute: Execute) -> None:
    check_attention(_plan, lambda rows: rows > 1, case, execute, keys_at_once=_TILE)


def test_what_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="heads of 60"):
        _plan(AttentionCall(4, 1, 4, 4, 4, 60, 240))
    with pytest.raises(UnsupportedError, match="257 elements apart"):
        _plan(AttentionCall(4, 1, 4, 4, 4, 64, 257))
