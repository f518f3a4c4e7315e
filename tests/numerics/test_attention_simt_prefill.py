"""Attention of several new tokens a sequence without tensor cores, against the op's reference in fp64.

Maxima follow the scores once in a tile of 64 tokens at most.
"""

from __future__ import annotations

import pytest
import torch
from attention_harness import AttentionCase, check_in_fp32
from linear_harness import Execute

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.attention_simt_prefill import plan_attention_simt_prefill
from pascaline.kernels.cuda.specialisation import ChipLimits

CHIP = ChipLimits((6, 1), 28)
_BRAIN, _WIDE, _BYTE = torch.bfloat16, torch.float32, torch.int8
_TILE = 64

CASES = (
    AttentionCase(((37, 37),), 14),
    AttentionCase(((20, 150),), 7, 1, 128),
    AttentionCase(((5, 9), (1, 40), (0, 0), (30, 95), (2, 130), (0, 0)), 8, cache_dtype=_BYTE),
    AttentionCase(((66, 70),), 4, 4, 32, _WIDE),
    AttentionCase(((65, 65),), 1, 1, 8),
    AttentionCase(((9, 33),), 9, 1, 80, _BRAIN),
    AttentionCase(((7, 80), (3, 20)), 8, 2, 256, _BYTE),
    AttentionCase(((6, 70),), 4, 1, 200),
    AttentionCase(((40, 190),), 2, 1, 96, window=70),
    AttentionCase(((90, 100),), 1, 1, 16, window=1),
    AttentionCase(((30, 140),), 4, cache_dtype=_BYTE, window=33, softcap=3.0, scale=0.4),
    AttentionCase(((64, 130),), 2, scale=1.0),
    AttentionCase(tuple((2, context) for context in range(2, 42)), 4, head_dim=16),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_prefill_without_tensor_cores(case: AttentionCase, execute: Execute) -> None:
    plan = plan_attention_simt_prefill(case.call, CHIP)
    check_in_fp32(plan, case, lambda new: new > 1, _TILE, execute)


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(((5, 700), (1, 9), (2, 40), (9, 300)), 7, 1, 32),
        AttentionCase(((4, 600),), 8, 2, 256, _BYTE, window=450),
        AttentionCase(((6, 520),), 4, 2, 80, softcap=3.0),
        AttentionCase(((3, 400), (1, 20)), 7, 1, 128),
        AttentionCase(((33, 400),), 2, 2, 128, _WIDE),
    ],
    ids=str,
)
def test_few_rows_share_tokens(case: AttentionCase, execute: Execute) -> None:
    """Some have as many splits as there are, some fewer, some one."""
    plan = plan_attention_simt_prefill(case.call, CHIP)
    assert plan.grid[2] > 2
    check_in_fp32(plan, case, lambda new: new > 1, _TILE, execute)


def test_many_rows_do_not_share_tokens() -> None:
    assert plan_attention_simt_prefill(AttentionCall(2048, 4, 128, 28, 4, 128, 4608), CHIP).scratch == {}


def test_what_is_refused() -> None:
    for call, words in (
        (AttentionCall(4, 1, 4, 4, 4, 60, 240), "heads of 60"),
        (AttentionCall(4, 1, 4, 4, 4, 64, 257), "257 elements apart"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            plan_attention_simt_prefill(call, CHIP)
