"""Launches of quantise_gated.cu, scale_gated.cu, round_gated.cu: gates, with results as linears take them."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.elementwise import Operation
from pascaline.kernels.cuda.input_memory import (
    BrainForm,
    Form,
    ScaledForm,
    definitions_of,
    ordering_bytes,
    shapes_of,
)
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.row_vectors import THREADS, WARP, blocks_of, integers, row_shape, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation
from pascaline.workload.slab_form import SLAB

_WARPS = 8


def plan_gated_input(operation: Operation, gate: torch.Tensor, up: torch.Tensor, form: Form) -> LaunchPlan:
    """Buffers: "gate" and "up" (T, C), rows at any strides, "inputs" where permuted, and `shapes_of`'s.

    Raises
    ------
    ShapeError : there is nothing to do, or rows to be scaled are permuted and beyond shared memory.
    """
    if not gate.numel():
        raise ShapeError(f"{operation.name} of {tuple(gate.shape)}")
    if isinstance(form, ScaledForm):
        return _scaled(operation, gate, up, form)
    if isinstance(form, BrainForm):
        return _rounded(operation, gate, up, form)
    return _quantised(operation, gate, up, form)


def _arguments(gate: torch.Tensor, form: Form) -> tuple[str, ...]:
    order = "inputs" if form.has_permutation else "absent"
    return ("gate", "up", order, *shapes_of(form, *gate.shape))


def _quantised(operation: Operation, gate: torch.Tensor, up: torch.Tensor, form: InputForm) -> LaunchPlan:
    rows, columns = gate.shape
    slabs = -(-columns // SLAB)
    definitions = (
        ("OPERATION", int(operation)),
        *definitions_of(form),
        ("IS_WHOLE", int(vector_width(gate, up) == 4 and not form.has_permutation)),
    )
    return LaunchPlan(
        Specialisation("quantise_gated.cu", "quantise_gated", definitions),
        grid=blocks_of(rows * slabs, _WARPS),
        block=(WARP * _WARPS, 1, 1),
        arguments=(
            *_arguments(gate, form),
            *integers(rows, columns, slabs, gate.stride(0), up.stride(0)),
        ),
        begins_early=True,
    )


def _scaled(operation: Operation, gate: torch.Tensor, up: torch.Tensor, form: ScaledForm) -> LaunchPlan:
    rows, columns = gate.shape
    shape = row_shape(columns, vector_width(gate, up))
    definitions = (("OPERATION", int(operation)), *shape.definitions, *definitions_of(form))
    return LaunchPlan(
        Specialisation("scale_gated.cu", "scale_gated", definitions),
        grid=(rows, 1, 1),
        block=(WARP * shape.warps, 1, 1),
        arguments=(*_arguments(gate, form), *integers(columns, gate.stride(0), up.stride(0))),
        shared_bytes=ordering_bytes(columns) if form.has_permutation else 0,
        begins_early=True,
    )


def _rounded(operation: Operation, gate: torch.Tensor, up: torch.Tensor, form: BrainForm) -> LaunchPlan:
    rows, columns = gate.shape
    width = vector_width(gate, up)
    row_vectors = columns // width
    definitions = (("OPERATION", int(operation)), ("WIDTH", width), *definitions_of(form))
    return LaunchPlan(
        Specialisation("round_gated.cu", "round_gated", definitions),
        grid=blocks_of(rows * row_vectors),
        block=(THREADS, 1, 1),
        arguments=(
            *("gate", "up", *shapes_of(form, rows, columns)),
            *integers(rows * row_vectors, row_vectors, gate.stride(0), up.stride(0)),
        ),
        begins_early=True,
    )
