"""Kernels of cards for ops that are planned by their operands' shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch

from pascaline.kernels.cuda.linear_runner import ALIGNMENT_BYTES
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.kernel import Chip, Kernel, Workspace, takes_all
from pascaline.kernels.likeness import likeness
from pascaline.kernels.op import Op, Shaped, Tolerance
from pascaline.weights import Dense, Slabbed, Weight
from pascaline.workload.op_costs import Axes

Operand = torch.Tensor | Weight | None

OUTPUT = "y"
"""The buffer of an output; an op that works in place writes its operand's."""


def no_needs(_limits: ChipLimits) -> str | None:
    """`needs` of kernels that run on every card."""
    return None


def buffers_of(op: Op, inputs: tuple[Operand, ...], out: torch.Tensor) -> dict[str, torch.Tensor | None]:
    """Operands by the names that plans call them: the op's, and of a weight in slabs its buffers'."""
    buffers: dict[str, torch.Tensor | None] = {}
    for name, value in zip(op.inputs, inputs, strict=True):
        if isinstance(value, Slabbed):
            buffers |= value.buffers
        elif isinstance(value, Dense):
            buffers[name] = value.tensor
        else:
            buffers[name] = cast(torch.Tensor | None, value)
    if op.in_place is None:
        buffers[OUTPUT] = out
    return buffers


def cuda_kernel(
    op: Op,
    recipe_of: Callable[..., Recipe],
    *,
    name: str = "",
    arithmetic: str = "fp32",
    needs: Callable[[ChipLimits], str | None] = no_needs,
    takes: Callable[[Axes, tuple[object, ...]], str | None] = takes_all,
    tolerance: Tolerance | None = None,
) -> Kernel:
    """A kernel of `op`; `recipe_of(limits, *inputs, **parameters)` looks at shapes, strides and dtypes."""

    def requires(chip: Chip) -> str | None:
        if chip.device.type != "cuda" or chip.limits is None:
            return "no card here that kernels are compiled for"
        return needs(chip.limits)

    def recipe(
        chip: Chip, _sizes: Axes, operands: tuple[object, ...], parameters: Mapping[str, float]
    ) -> Recipe:
        assert chip.limits is not None  # noqa: S101 - as `requires` says
        return recipe_of(chip.limits, *operands, **parameters)

    def launch(*inputs: Operand, out: torch.Tensor, workspace: Workspace, **parameters: float) -> None:
        if not out.numel():
            return
        if op.in_place is None:
            inputs = tuple(aligned(value) for value in inputs)
        key = (name or op.name, *likeness_of(inputs), *parameters.items())
        runner = workspace.ops
        runner(key, lambda: recipe_of(runner.limits, *inputs, **parameters), buffers_of(op, inputs, out))

    return Kernel(
        name=name or f"cuda.{op.name}",
        ops=(op.name,),
        backend="cuda",
        arithmetic=arithmetic,
        requires=requires,
        launch=launch,
        tolerance=tolerance,
        takes=takes,
        recipe=recipe,
    )


def likeness_of(inputs: tuple[Operand, ...]) -> Iterator[object]:
    """What launches of operands are bound alike by, strides of tensors among it."""
    for value in inputs:
        if isinstance(value, torch.Tensor):
            yield value.shape, value.stride(), value.dtype
        else:
            yield likeness(cast(Shaped | None, value))


def aligned(value: Operand) -> Operand:
    """Where a tensor begins elsewhere than vectors may, a copy."""
    if isinstance(value, torch.Tensor) and value.data_ptr() % ALIGNMENT_BYTES:
        return value.clone(memory_format=torch.contiguous_format)
    return value
