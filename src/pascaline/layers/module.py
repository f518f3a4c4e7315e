"""The base of all layers: a module path, a launcher, and named places for weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from pascaline.kernels import Launcher
from pascaline.weights import Dense, Weight


@dataclass(frozen=True)
class WeightSlot:
    """A place that the loader fills: `name` as in Hugging Face's checkpoints."""

    module: Layer
    attribute: str
    name: str
    shape: tuple[int, ...]

    def fill(self, weight: Weight) -> None:
        setattr(self.module, self.attribute, weight)


class Layer(nn.Module):
    """A module whose weights are `Weight`s. `path` is its name in the model, as in HF.

    Weights start on torch's meta device: shapes without memory, enough for planning.
    """

    def __init__(self, path: str, launch: Launcher) -> None:
        super().__init__()
        self.path = path
        self.launch = launch
        self._slots: list[WeightSlot] = []

    def declare(self, attribute: str, *shape: int) -> Weight:
        """A weight of this module that checkpoints call `<path>.<attribute>`."""
        self._slots.append(WeightSlot(self, attribute, f"{self.path}.{attribute}", shape))
        return Dense(torch.empty(shape, device="meta"))

    def weight_slots(self) -> Iterator[WeightSlot]:
        """All weights of this module and those below it."""
        for module in self.modules():
            if isinstance(module, Layer):
                yield from module._slots

    def settle(self) -> None:
        """What can only be done once all weights of a module and those below it are there."""
        for child in self.children():
            for layer in child if isinstance(child, nn.ModuleList) else [child]:
                cast(Layer, layer).settle()

    def resident_bytes(self) -> int:
        """What the weights of this module and those below it keep in memory."""
        return sum(
            value.resident_bytes
            for module in self.modules()
            for value in vars(module).values()
            if isinstance(value, Weight)
        )
