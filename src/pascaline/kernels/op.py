"""`Op`: what is computed. One record a formula; tests, planner and benchmarks read it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from pascaline.core.errors import ShapeError
from pascaline.workload.op_costs import OP_COSTS, Axes

_AXIS_SUM = re.compile(r"^(\w+)\+(\d+)$")


class Shaped(Protocol):
    """A tensor or a weight: whatever has a shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Operand:
    """An input or the output: `axes` names its shape ("M", or "S+1" for one more than S).

    `dtype` is a torch dtype, or None for a `Weight` in any packing; those of `also` will do too.
    """

    axes: tuple[str, ...]
    dtype: torch.dtype | None = torch.float32
    optional: bool = False
    also: tuple[torch.dtype, ...] = ()

    def takes(self, dtype: torch.dtype) -> bool:
        return dtype == self.dtype or dtype in self.also


FP32_ROUNDING = 2.0**-24
"""Unit roundoff u of fp32: one operation errs by at most u times its result."""


def summation_error(terms: int) -> float:
    """Error of an fp32 sum of `terms` products, added in any order, in units of u · Σ|products|.

    `terms` at worst. Roundings that are independent and zero on average stay below 8 · √terms in
    all but one of 10¹⁰ sums, for up to 3000 terms; the worst case would let wrong arithmetic
    through (TF32 errs by some 340 of these units for 576 products). Source: Higham and Mary 2019,
    A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, with λ = 8.
    """
    return min(terms, 8.0 * math.sqrt(terms))


@dataclass(frozen=True)
class Tolerance:
    """Largest |kernel − fp64 reference| allowed, element by element, and why.

    `bound(*inputs, **parameters)` computes it in fp64, broadcastable to the output;
    `derivation` is the argument behind the formula.
    """

    bound: Callable[..., torch.Tensor]
    derivation: str


@dataclass(frozen=True)
class Case:
    """One test input: sizes of all axes; `make_inputs` of the Op turns it into operands."""

    name: str
    axes: Axes
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Op:
    """What is computed, independent of any chip.

    Parameters
    ----------
    axes : what each symbol means.
    inputs : operands in the order of the call.
    output : the one tensor that is written; with `in_place` it is the operand of that name.
    also_written : operands that are written beside it.
    reference : pure torch, any float dtype (tests call it in fp64): `reference(*inputs, **parameters)`.
    make_inputs : `make_inputs(case, generator)` gives fp32 operands.
    """

    name: str
    axes: Mapping[str, str]
    inputs: Mapping[str, Operand]
    output: Operand
    reference: Callable[..., torch.Tensor]
    cases: tuple[Case, ...]
    make_inputs: Callable[[Case, torch.Generator], tuple[object, ...]]
    tolerance: Tolerance
    source: str
    in_place: str | None = None
    also_written: tuple[str, ...] = ()

    def flop(self, axes: Axes) -> dict[str, float]:
        """Arithmetic operations by type; a multiply-add counts 2."""
        return OP_COSTS[self.name].flop(axes)

    def bind(self, inputs: tuple[Shaped | None, ...]) -> dict[str, int]:
        """Sizes of all axes from the operands' shapes.

        Raises
        ------
        ShapeError : a missing operand, a wrong rank, or two operands that disagree on an axis.
        """
        if len(inputs) != len(self.inputs):
            raise ShapeError(f"{self.name}: {len(inputs)} operands", expected=", ".join(self.inputs))
        sizes: dict[str, int] = {}
        for (name, operand), value in zip(self.inputs.items(), inputs, strict=True):
            if value is None:
                if not operand.optional:
                    raise ShapeError(f"{self.name}: {name} is missing")
                continue
            if len(value.shape) != len(operand.axes):
                raise ShapeError(
                    f"{self.name}: {name} has shape {tuple(value.shape)}", expected=" × ".join(operand.axes)
                )
            for axis, size in zip(operand.axes, value.shape, strict=True):
                self._bind_axis(sizes, name, axis, size)
        return sizes

    def _bind_axis(self, sizes: dict[str, int], operand: str, axis: str, size: int) -> None:
        match = _AXIS_SUM.match(axis)
        if match:
            axis, size = match[1], size - int(match[2])
        if sizes.setdefault(axis, size) != size:
            raise ShapeError(
                f"{self.name}: {operand} has {axis} = {size}", expected=f"{axis} = {sizes[axis]}"
            )

    def output_shape(self, sizes: Axes) -> tuple[int, ...]:
        return tuple(sizes[axis] for axis in self.output.axes)
