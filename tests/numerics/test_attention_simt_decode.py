"""Attention of one new token a sequence without tensor cores, against the op's reference in fp64.

Maxima follow the scores once in a tile of 32 tokens at most, of which merging warps and splits adds two.
"""

from __future__ import annotations

import pytest
import torch
from attention_harness import AttentionCase, check_in_fp32
from linear_harness import Execute

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_simt_decode import SimtDecodeGeometry, plan_attention_simt_decode
from pascaline.kernels.cuda.specialisation import ChipLimits

CHIP = ChipLimits((6, 1), 28)
_BRAIN, _WIDE, _BYTE = torch.bfloat16, torch.float32, torch.int8
_TILE = 32


def _one(*contexts: int) -> tuple[tuple[int, int], ...]:
    return tuple((1, context) for context in contexts)


CASES = (
    AttentionCase(_one(1, 15, 16, 17, 31, 32, 33, 300), heads=14),
    AttentionCase(_one(700, 5), heads=14, cache_dtype=_BYTE),
    AttentionCase(_one(129, 64), 28, 4, 128, _BRAIN),
    AttentionCase(_one(200), 4, 4, 96, _WIDE),
    AttentionCase(_one(140, 3), 8, 1, 8),
    AttentionCase(_one(140, 40), 9, 1, 16, _BYTE),
    AttentionCase(_one(90), 16, 1, 80),
    AttentionCase(_one(77), 8, 4, 256, _BYTE),
    AttentionCase(_one(100, 40, 20, 1), 14, window=24),
    AttentionCase(_one(300, 40), 14, window=1, softcap=4.0),
    AttentionCase(_one(210, 64), 14, cache_dtype=_BYTE, window=130, softcap=3.0, scale=0.4),
    AttentionCase(_one(180, 33), 14, scale=1.0),
    AttentionCase(((1, 20), (0, 0), (1, 40), (3, 7), (1, 3), (0, 0)), 14),
)


def _check(case: AttentionCase, geometry: SimtDecodeGeometry | None, execute: Execute) -> None:
    plan = plan_attention_simt_decode(case.call, CHIP, geometry)
    check_in_fp32(plan, case, lambda new: new == 1, _TILE, execute)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_decode_without_tensor_cores(case: AttentionCase, execute: Execute) -> None:
    _check(case, None, execute)


@pytest.mark.parametrize(("splits", "warps", "blocks"), [(1, 4, 2), (3, 2, 2), (64, 8, 1)])
def test_any_splits_and_warps(splits: int, warps: int, blocks: int, execute: Execute) -> None:
    case = AttentionCase(_one(1300, 70), 7, 1, 32)
    _check(case, SimtDecodeGeometry(splits, warps, blocks), execute)


def test_heads_that_are_refused() -> None:
    for head_dim in (60, 264):
        with pytest.raises(UnsupportedError, match=f"heads of {head_dim}"):
            plan_attention_simt_decode(AttentionCall(1, 1, 4, 4, 4, head_dim, 4 * head_dim), CHIP)
