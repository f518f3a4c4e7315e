"""Launches of order_input.cu: x as products of warpgroups read it from shared memory."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.recipe import Described
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation
from pascaline.workload.slab_form import SLAB

_BLOCK_ROWS, _WORDS = 8, 8


def ordered_shape(rows: int, columns: int) -> Described:
    """Of the buffer "ordered": slabs, blocks of 8 rows, and their numbers in the order of the products."""
    return (-(-columns // SLAB), -(-rows // _BLOCK_ROWS), _BLOCK_ROWS * SLAB), torch.float16


def plan_order_input(rows: int, columns: int, dtype: torch.dtype, *, is_permuted: bool = False) -> LaunchPlan:
    """Buffers: "x" (rows, columns) of `dtype`, "inputs" where permuted, and "ordered"."""
    if min(rows, columns) < 1:
        raise ShapeError(f"{rows} × {columns} inputs to order")
    (slabs, row_blocks, _), _ = ordered_shape(rows, columns)
    definitions = (
        ("INPUT_TYPE", NUMBER_TYPES[dtype]),
        ("HAS_PERMUTATION", int(is_permuted)),
        ("IS_WHOLE", int(dtype == torch.float16 and columns % 4 == 0 and not is_permuted)),
        ("MATRIX_TYPE", NUMBER_TYPES[torch.float16]),
    )
    return LaunchPlan(
        Specialisation("order_input.cu", "order_input", definitions),
        grid=(slabs * row_blocks, 1, 1),
        block=(_BLOCK_ROWS * _WORDS, 1, 1),
        arguments=("x", "inputs", "ordered", Integer(rows), Integer(columns), Integer(row_blocks)),
        begins_early=True,
    )
