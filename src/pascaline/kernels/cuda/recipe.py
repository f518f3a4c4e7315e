"""Steps that compute something together, before and after their buffers are known."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.specialisation import LaunchPlan

Buffers = Mapping[str, torch.Tensor | None]
"""By their names in plans; None where one is absent."""

OPTIONAL_BUFFERS = (
    *("integers", "integers_high", "zeros", "inputs", "bias", "residual"),
    *("input_codes", "input_scales", "input_sums"),
    *("key_scales", "value_scales"),
    *("partials", "arrivals", "absent"),
)
"""What plans name even where a weight, a call or a geometry is without: those are null."""

Step = LaunchPlan | Callable[[Buffers], None]
"""A launch of ours, or a call of torch."""

Described = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor."""


@dataclass(frozen=True)
class Recipe:
    """What is launched, in order.

    Parameters
    ----------
    handed_on : buffers that steps write for those after them, by their names.
    """

    steps: tuple[Step, ...]
    handed_on: Mapping[str, Described] = field(default_factory=dict)

    @property
    def plans(self) -> tuple[LaunchPlan, ...]:
        """The launches of ours among the steps."""
        return tuple(step for step in self.steps if isinstance(step, LaunchPlan))

    @property
    def main(self) -> LaunchPlan:
        """The launch whose geometry is chosen; where none has a choice the last of ours."""
        return next((plan for plan in reversed(self.plans) if plan.geometry is not None), self.plans[-1])


class Kernels(Protocol):
    """A `KernelSet`, or what stands for one."""

    def bind(self, plan: LaunchPlan, addresses: Mapping[str, int | None], /) -> BoundLaunch:
        """A launch of `plan`, its scratch memory included."""
        ...


class BoundRecipe:
    """A recipe with its buffers, of which some are others in each call.

    Parameters
    ----------
    fixed : buffers that stay: weights, and those that are handed on. Others than `OPTIONAL_BUFFERS` must be
        among them.
    moving : names of those that a call gives.
    """

    def __init__(self, kernels: Kernels, recipe: Recipe, fixed: Buffers, moving: tuple[str, ...]) -> None:
        self._buffers = {**dict.fromkeys(OPTIONAL_BUFFERS), **fixed, **dict.fromkeys(moving)}
        self._absent: Buffers = dict.fromkeys(moving)
        self._pointers: dict[str, list[ctypes.c_void_p]] = {name: [] for name in moving}
        self._steps: list[Callable[[int], None]] = []
        addresses = {name: None if each is None else each.data_ptr() for name, each in self._buffers.items()}
        for step in recipe.steps:
            if not isinstance(step, LaunchPlan):
                self._steps.append(functools.partial(self._call, step))
                continue
            bound = kernels.bind(step, addresses)
            self._steps.append(bound)
            for name, pointer in bound.pointers.items():
                if name in self._pointers:
                    self._pointers[name].append(pointer)

    def __call__(self, stream: int, **moving: torch.Tensor | None) -> None:
        """Put all steps into `stream`, which is torch's current one, with these buffers.

        Raises
        ------
        CudaError : the driver refuses a launch.
        """
        for name, tensor in moving.items():
            self._buffers[name] = tensor
            address = None if tensor is None else tensor.data_ptr()
            for pointer in self._pointers[name]:
                pointer.value = address
        try:
            for step in self._steps:
                step(stream)
        finally:
            # What was launched is in stream order: held here, inputs and outputs of every layer would stay.
            self._buffers.update(self._absent)

    def _call(self, step: Callable[[Buffers], None], _stream: int) -> None:
        step(self._buffers)
