"""Machine code of sm_61 of attention without tensor cores, executed by the emulator: against fp64."""

from __future__ import annotations

import pytest
import torch
from attention_harness import AttentionCase, check_in_fp32
from emulated_card import TITAN_X, emulate

from pascaline.hardware.nvrtc import nvrtc_libraries
from pascaline.kernels.cuda.attention_simt_decode import plan_attention_simt_decode
from pascaline.kernels.cuda.attention_simt_prefill import plan_attention_simt_prefill

pytestmark = pytest.mark.skipif(not nvrtc_libraries(), reason="no NVRTC is installed here")


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(((1, 300), (0, 0), (1, 17)), 14, 2, 128),
        AttentionCase(((1, 200), (2, 5)), 9, 1, 80, torch.int8, window=150, softcap=4.0),
    ],
    ids=str,
)
def test_decode(case: AttentionCase) -> None:
    plan = plan_attention_simt_decode(case.call, TITAN_X)
    check_in_fp32(plan, case, lambda new: new == 1, 32, emulate)


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(((12, 90), (1, 3), (2, 2)), 7, 1, 128),
        AttentionCase(((9, 200),), 8, 1, 80, torch.int8, window=90, softcap=4.0),
    ],
    ids=str,
)
def test_prefill(case: AttentionCase) -> None:
    plan = plan_attention_simt_prefill(case.call, TITAN_X)
    check_in_fp32(plan, case, lambda new: new > 1, 64, emulate)
