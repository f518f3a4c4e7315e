"""Launches of gather_rows.cu and gather_packed.cu: rows of a matrix by their indices, in fp32."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES, WEIGHT_BUFFERS
from pascaline.kernels.cuda.row_vectors import THREADS, blocks_of, integers, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB

_WARPS, _WARP_SLABS = 4, 8


def plan_gather_rows(rows: int, table: torch.Tensor, *, names: tuple[str, str]) -> LaunchPlan:
    """Buffers: the table (V, C) of fp32, fp16 or bf16, int64 indices (`rows`), and "y" (`rows`, C).

    Parameters
    ----------
    names : of table and indices.

    Raises
    ------
    ShapeError : there is nothing to do.
    """
    columns = table.shape[1]
    if min(rows, columns) < 1:
        raise ShapeError(f"{rows} rows of {columns} columns")
    width = vector_width(table)
    row_vectors = columns // width
    definitions = (("WIDTH", width), ("TABLE_TYPE", NUMBER_TYPES[table.dtype]))
    return LaunchPlan(
        Specialisation("gather_rows.cu", "gather_rows", definitions),
        grid=blocks_of(rows * row_vectors),
        block=(THREADS, 1, 1),
        arguments=(*names, "y", *integers(rows * row_vectors, row_vectors, table.stride(0))),
        begins_early=True,
    )


def plan_gather_packed(
    form: SlabbedForm, rows: int, outputs: int, columns: int, *, indices: str, has_permutation: bool = False
) -> LaunchPlan:
    """Buffers: those of a weight (`outputs`, `columns`) in slabs, int64 `indices` (`rows`), and "y".

    Raises
    ------
    ShapeError : there is nothing to do.
    """
    if min(rows, columns) < 1:
        raise ShapeError(f"{rows} rows of {columns} columns")
    parts = -(-columns // (SLAB * _WARP_SLABS))
    definitions = (
        *form.definitions,
        ("HAS_PERMUTATION", int(has_permutation)),
        ("WIDTH", 1 if has_permutation or columns % 4 else 4),
    )
    return LaunchPlan(
        Specialisation("gather_packed.cu", "gather_packed", definitions),
        grid=blocks_of(rows * parts, _WARPS),
        block=(32 * _WARPS, 1, 1),
        arguments=(*WEIGHT_BUFFERS, "inputs", indices, "y", *integers(rows, parts, outputs, columns)),
        begins_early=True,
    )
