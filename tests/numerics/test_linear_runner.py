"""Linears are bound once for what their machine code depends on, and anew for all else."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.linear_runner import LinearRunner
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.cuda.tuned import TunedLinears
from pascaline.weights import Dense

DECODE = next(way for way in LINEAR_WAYS if way.name == "dense_decode")


class NoCard:
    """What a `KernelSet` is to linears; writes down what is bound, and launches nothing."""

    def __init__(self) -> None:
        self.limits = ChipLimits((9, 0), 132, 227 << 10)
        self.bound: list[dict[str, int]] = []

    def handed_on(self, described: Mapping[str, object]) -> dict[str, torch.Tensor]:
        assert not described
        return {}

    def bind(self, plan: LaunchPlan, _addresses: Mapping[str, int | None]) -> BoundLaunch:
        self.bound.append(dict(plan.specialisation.definitions))
        return cast(BoundLaunch, Nothing())


class Nothing:
    """A launch."""

    def __init__(self) -> None:
        self.pointers: dict[str, SimpleNamespace] = {}

    def __call__(self, _stream: int) -> None:
        pass


def test_other_number_types_are_other_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda _: 0, raising=False)
    card = NoCard()
    linears = LinearRunner(cast(KernelSet, card), TunedLinears())
    weight = Dense(torch.zeros(16, 64, dtype=torch.float16))
    types = [
        (torch.float32, torch.float32, None),
        (torch.float16, torch.float32, None),
        (torch.float16, torch.float16, None),
        (torch.float16, torch.float16, torch.float32),
    ]
    for _ in range(2):
        for given, returned, added in types:
            bias = None if added is None else torch.zeros(16, dtype=added)
            linears(DECODE, torch.zeros(2, 64, dtype=given), weight, bias, torch.zeros(2, 16, dtype=returned))
    found = [(each["INPUT_TYPE"], each["OUTPUT_TYPE"], each["HAS_BIAS"]) for each in card.bound]
    assert found == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
