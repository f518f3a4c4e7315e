"""The base of all layers: a module path, a launcher, and named places for weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from pascaline.kernels import Launcher
from pascaline.weights import Dense, Weight
from pascaline.workload.places import WeightPart


@dataclass(frozen=True)
class WeightSlot:
    """A place that the loader fills, with one part or several below each other."""

    module: Layer
    attribute: str
    parts: tuple[WeightPart, ...]

    def fill(self, weights: list[tuple[Weight, int]]) -> None:
        """Put weights there, each with the number of parts that it is made of."""
        self.module.receive(self.attribute, weights)


class Layer(nn.Module):
    """A module whose weights are `Weight`s. `path` is its name in the model, as in HF.

    Weights start on torch's meta device: shapes without memory, enough for planning.
    """

    def __init__(self, path: str, launch: Launcher) -> None:
        super().__init__()
        self.path = path
        self.launch = launch
        self._slots: list[WeightSlot] = []

    def declare_parts(self, attribute: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """A place for the tensors of this name of several modules, given with their shapes."""
        parts = (WeightPart(f"{path}.{attribute}", shape) for path, shape in shapes.items())
        self._slots.append(WeightSlot(self, attribute, tuple(parts)))

    def declare(self, attribute: str, *shape: int) -> Weight:
        """A weight of this module that checkpoints call `<path>.<attribute>`."""
        self.declare_parts(attribute, {self.path: shape})
        return Dense(torch.empty(shape, device="meta"))

    def weight_slots(self) -> Iterator[WeightSlot]:
        """All weights of this module and those below it."""
        for module in self.modules():
            if isinstance(module, Layer):
                yield from module._slots

    def receive(self, attribute: str, weights: list[tuple[Weight, int]]) -> None:
        """Take a slot's weights, as `WeightSlot.fill` gives them."""
        [(weight, _)] = weights
        setattr(self, attribute, weight)

    def sublayers(self) -> Iterator[Layer]:
        """The layers directly below this one, those of lists one by one."""
        for child in self.children():
            yield from cast(Iterable[Layer], child if isinstance(child, nn.ModuleList) else [child])

    def settle(self) -> None:
        """What can only be done once all weights of a module and those below it are there."""
        for layer in self.sublayers():
            layer.settle()

    def replace_weights(self, change: Callable[[Weight], Weight]) -> None:
        """Put another weight in the place of each matrix of this module alone."""
        for name, value in list(vars(self).items()):
            if isinstance(value, Weight) and len(value.shape) == 2:
                setattr(self, name, change(value))

    def resident_bytes(self) -> int:
        """What the weights of this module and those below it keep in memory."""
        return sum(
            weight.resident_bytes
            for module in self.modules()
            if isinstance(module, Layer)
            for weight in module.weights()
        )

    def weights(self) -> list[Weight]:
        """The weights of this module alone."""
        return [value for value in vars(self).values() if isinstance(value, Weight)]
