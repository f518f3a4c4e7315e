"""Kernels of cards of every op but the linear and attention: operands, launches, and fp64's bounds."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import cast

import torch
from linear_harness import Execute, as_array
from stand_in_workspace import memory_of

from pascaline.kernels import KERNELS, OPS, Chip, Kernel, Op
from pascaline.kernels.cuda.op_kernel import OUTPUT, buffers_of
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.kernels.cuda_linear import in_slabs
from pascaline.kernels.op import Case, Shaped
from pascaline.weights import Packed, Weight

CHIP = Chip(torch.device("cuda"), ChipLimits((6, 1), 28))
Operands = tuple[torch.Tensor | Weight | None, ...]

ON_CARDS = {
    kernel.ops[0]: kernel
    for kernel in KERNELS
    if kernel.backend == "cuda" and kernel.ops[0] not in ("linear", "paged_attention")
}


def operands_of(op: Op, case: Case) -> Operands:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{op.name} {case.name}".encode()))
    return cast(Operands, op.make_inputs(case, generator))


def in_fp64(value: object) -> object:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def as_cards_hold(operands: Operands) -> Operands:
    """With packed weights in slabs."""
    return tuple(in_slabs(value) if isinstance(value, Packed) else value for value in operands)


def recipe_of(kernel: Kernel, operands: Operands, parameters: Mapping[str, float]) -> Recipe:
    sizes = OPS[kernel.ops[0]].bind(cast(tuple[Shaped | None, ...], operands))
    assert kernel.takes(sizes, operands) is None
    return kernel.recipe(CHIP, sizes, operands, parameters)


def run(
    kernel: Kernel, operands: Operands, parameters: Mapping[str, float], execute: Execute
) -> torch.Tensor:
    """What the kernel computes; an op that works in place changes its operand."""
    op = OPS[kernel.ops[0]]
    operands = as_cards_hold(operands)
    shape = op.output_shape(op.bind(cast(tuple[Shaped | None, ...], operands)))
    out = torch.full(shape, torch.nan)
    buffers = {
        name: as_array(memory_of(tensor))
        for name, tensor in buffers_of(op, operands, out).items()
        if tensor is not None
    }
    also = tuple(name for name in op.also_written if name in buffers)
    outputs, updates = ((OUTPUT,), ()) if op.in_place is None else ((), (op.in_place, *also))
    for plan in recipe_of(kernel, operands, parameters).plans:
        assert plan.begins_early
        execute(plan, buffers, outputs, updates=updates)
    if op.in_place is None:
        return out
    return cast(torch.Tensor, operands[list(op.inputs).index(op.in_place)])


def check(kernel: Kernel, operands: Operands, parameters: Mapping[str, float], execute: Execute) -> None:
    op = OPS[kernel.ops[0]]
    in_double = tuple(in_fp64(each.clone() if isinstance(each, torch.Tensor) else each) for each in operands)
    expected = op.reference(*in_double, **parameters)
    bound = (kernel.tolerance or op.tolerance).bound(*in_double, **parameters)
    got = run(kernel, operands, parameters, execute)
    assert got.shape == expected.shape
    # Not `error > bound`: NaN compares false with everything.
    wrong = ~((got.double() - expected).abs() <= bound)
    assert not wrong.any(), f"{int(wrong.sum())} of {wrong.numel()} elements outside of the tolerance"


def as_part(tensor: torch.Tensor, margin: int) -> torch.Tensor:
    """The same rows, neighbours in a wider matrix; `margin` elements on either side."""
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return tensor
    columns = tensor[0].numel()
    wide = torch.full((len(tensor), columns + 2 * margin), 1e30)
    part = wide[:, margin : margin + columns].view(tensor.shape)
    return part.copy_(tensor)
