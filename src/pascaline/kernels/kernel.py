"""`Kernel`: how an Op is computed on one backend."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from pascaline.hardware.roofline import Roofline
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.linear_runner import LinearRunner
from pascaline.kernels.cuda.op_runner import OpRunner
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.cuda.tuned import TunedLinears
from pascaline.kernels.levels import Level
from pascaline.kernels.op import Tolerance
from pascaline.weights import Weight
from pascaline.workload.holdings import Layout
from pascaline.workload.op_costs import OP_COSTS, Axes


@dataclass(frozen=True)
class Chip:
    """What a kernel may ask of the place it runs on.

    Parameters
    ----------
    limits : what the geometry of launches depends on; None off cards.
    roofline : the chip's limits; None where nothing is predicted.
    tuned : what was measured on such a card.
    """

    device: torch.device
    limits: ChipLimits | None = None
    roofline: Roofline | None = None
    tuned: TunedLinears = field(default_factory=TunedLinears)


@dataclass
class Workspace:
    """What outlives a launch: scratch memory, for which nothing pays anew, and compiled code.

    One per engine; its buffers are shared by all launches, which run one after the other.

    Parameters
    ----------
    kernels, tuned : the card's.
    """

    device: torch.device
    kernels: KernelSet | None = None
    tuned: TunedLinears = field(default_factory=TunedLinears)
    _buffers: dict[torch.dtype, torch.Tensor] = field(default_factory=dict)

    def scratch(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised flat tensor of at least one element; valid until the next call."""
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < elements:
            buffer = torch.empty(max(elements, 1), dtype=dtype, device=self.device)
            self._buffers[dtype] = buffer
        return buffer[:elements]

    @functools.cached_property
    def linears(self) -> LinearRunner:
        """The card's linears.

        Raises
        ------
        UnsupportedError, CudaError : as `KernelSet`, if none was given.
        """
        return LinearRunner(self._card_kernels, self.tuned)

    @functools.cached_property
    def ops(self) -> OpRunner:
        """The card's other ops.

        Raises
        ------
        UnsupportedError, CudaError : as `KernelSet`, if none was given.
        """
        return OpRunner(self._card_kernels)

    @functools.cached_property
    def _card_kernels(self) -> KernelSet:
        return self.kernels or KernelSet(self.device)


def as_it_is(weight: Weight) -> Weight:
    """`prepare` of kernels that read weights as they are loaded."""
    return weight


def takes_all(_sizes: Axes, _operands: tuple[object, ...]) -> str | None:
    """`takes` of kernels that compute an op at any size, from operands in any form."""
    return None


Backend = Literal["torch", "native", "cuda"]

Prediction = Callable[[Chip, Axes, tuple[object, ...]], float]
"""Seconds that a launch takes on a chip."""

Recipes = Callable[[Chip, Axes, tuple[object, ...], Mapping[str, float]], Recipe]


def nothing_compiled(
    _chip: Chip, _sizes: Axes, _operands: tuple[object, ...], _parameters: Mapping[str, float]
) -> Recipe:
    """`recipe` of kernels that are there already."""
    return Recipe(())


Launch = Callable[..., None]
"""`launch(*inputs, out=…, workspace=…, **parameters)` reads its operands and writes all of `out`."""


@dataclass(frozen=True)
class Kernel:
    """How one or several Ops (a fusion) are computed.

    Parameters
    ----------
    ops : names of the Ops that one launch covers, in order.
    requires : None when the chip will do, else the reason why not.
    arithmetic : the type that the multiplications run in: a key of `Op.flop`, or "int8" where quantised
        activations stand for those.
    tolerance : what its arithmetic may err by, instead of the Op's.
    parameters : names of the op's parameters in the order of a native launch's numbers.
    operands : of the op, that a native launch describes (None: all); it takes none of the rest.
    prepare, layout : what a weight is turned into, once, when it is loaded, and what that is called.
    level : how exact its arithmetic is.
    takes : None when it computes sizes and operands, else the reason why not.
    predicted_s : None where kernels stand in order of preference.
    recipe : what a launch needs compiled, and memory for: `recipe(chip, sizes, operands, parameters)`.
    """

    name: str
    ops: tuple[str, ...]
    backend: Backend
    arithmetic: str
    requires: Callable[[Chip], str | None]
    launch: Launch
    tolerance: Tolerance | None = None
    parameters: tuple[str, ...] = ()
    operands: int | None = None
    prepare: Callable[[Weight], Weight] = as_it_is
    layout: Layout = "packed"
    level: Level = "exact"
    takes: Callable[[Axes, tuple[object, ...]], str | None] = takes_all
    predicted_s: Prediction | None = None
    recipe: Recipes = nothing_compiled

    def bytes_moved(self, axes: Axes) -> int:
        """Bytes that have to cross the memory bus, weights not counted (a `Weight` knows its own)."""
        return sum(OP_COSTS[op].bytes_moved(axes) for op in self.ops)


def any_chip(_: Chip) -> str | None:
    """`requires` of kernels that run everywhere."""
    return None
