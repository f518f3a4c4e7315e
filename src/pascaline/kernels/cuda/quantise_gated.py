"""Launches of quantise_gated.cu: what a gate lets through, as a linear takes it."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.elementwise import Operation
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.quantise_input import QUANTISED_BUFFERS, InputForm
from pascaline.kernels.cuda.row_vectors import blocks_of, integers, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation
from pascaline.workload.slab_form import SLAB

_WARPS = 8


def plan_quantise_gated(
    operation: Operation, gate: torch.Tensor, up: torch.Tensor, form: InputForm
) -> LaunchPlan:
    """Buffers: "gate" and "up" (T, C), rows at any strides, "inputs" where permuted, and `quantised_shapes`'.

    Raises
    ------
    ShapeError : there is nothing to do.
    """
    if not gate.numel():
        raise ShapeError(f"{operation.name} of {tuple(gate.shape)}")
    rows, columns = gate.shape
    slabs = -(-columns // SLAB)
    definitions = (
        ("OPERATION", int(operation)),
        ("INPUT_TYPE", NUMBER_TYPES[torch.float32]),
        *form.definitions,
        ("IS_WHOLE", int(vector_width(gate, up) == 4 and not form.has_permutation)),
    )
    return LaunchPlan(
        Specialisation("quantise_gated.cu", "quantise_gated", definitions),
        grid=blocks_of(rows * slabs, _WARPS),
        block=(32 * _WARPS, 1, 1),
        arguments=(
            *("gate", "up", "inputs" if form.has_permutation else "absent", *QUANTISED_BUFFERS),
            *integers(rows, columns, slabs, gate.stride(0), up.stride(0)),
        ),
        begins_early=True,
    )
