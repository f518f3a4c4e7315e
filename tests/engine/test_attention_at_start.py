"""What the start settles of attention: the type of keys and values, and whose kernel reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from pascaline.core.errors import UnsupportedError
from pascaline.engine.start import attention_backend, settle_key_value_dtype
from pascaline.hardware.roofline import Roofline
from pascaline.kernels import KERNELS, Chip
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.launcher import Launcher
from pascaline.kernels.policy import Policy
from pascaline.kv.pages import KeyValueDtype
from pascaline.models.llama import FAMILY

HALF, WIDE = torch.float16, torch.float32
TYPES = {"fp16": HALF, "bf16": torch.bfloat16, "int8": torch.int8, "fp32": WIDE}
ODD = replace(FAMILY.tiny, head_dim=12)  # no multiple of 8, which all of a card's kernels need


def card(compute_capability: tuple[int, int]) -> Launcher:
    name = "{}.{}".format(*compute_capability)
    rates: dict[str, float] = {"fp32": 1e13, "tensor_fp16": 1e14}
    roofline = Roofline("a card", "cuda", name, rates, 3e11, memory_bytes=24 << 30, launch_s=2e-6)
    limits = ChipLimits(compute_capability, 28, 96 << 10)
    return Launcher(Policy(Chip(torch.device("cuda"), limits, roofline), KERNELS))


def torch_alone() -> Launcher:
    return Launcher(Policy(Chip(torch.device("cpu")), KERNELS, "fp32"))


@pytest.mark.parametrize("capability", [(5, 0), (6, 1), (8, 6)])
@pytest.mark.parametrize("wanted", get_args(KeyValueDtype))
def test_cards_read_every_type(wanted: KeyValueDtype, capability: tuple[int, int]) -> None:
    expected = TYPES["fp16" if wanted == "auto" else wanted]
    assert settle_key_value_dtype(wanted, FAMILY.tiny, card(capability)) == (expected, "cuda")


@pytest.mark.parametrize("launcher", [card((8, 6)), torch_alone()], ids=["card", "cpu"])
def test_plain_torch_reads_fp32_alone(launcher: Launcher) -> None:
    assert attention_backend(ODD, launcher, HALF) == "torch"
    for wanted in ("auto", "fp32"):
        assert settle_key_value_dtype(wanted, ODD, launcher) == (WIDE, "torch")


@pytest.mark.parametrize(
    ("wanted", "remedy"), [("fp16", "auto or fp32"), ("bf16", "multiple of 8"), ("int8", "multiple of 8")]
)
def test_types_that_plain_torch_would_have_to_widen_are_refused(wanted: KeyValueDtype, remedy: str) -> None:
    with pytest.raises(UnsupportedError, match=f"key_value_dtype {wanted} on cuda.*{remedy}"):
        settle_key_value_dtype(wanted, ODD, card((6, 1)))
