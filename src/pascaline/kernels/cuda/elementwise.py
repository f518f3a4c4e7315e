"""Launches of elementwise.cu: one operation on each element."""

from __future__ import annotations

from enum import IntEnum

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.row_vectors import THREADS, blocks_of, integers, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation, float_bits


class Operation(IntEnum):
    """As elementwise.cu numbers them."""

    ADD = 0
    SCALE = 1
    SOFT_CAP = 2
    SILU_AND_MUL = 3
    GELU_AND_MUL = 4


def plan_elementwise(
    operation: Operation,
    x: torch.Tensor,
    second: torch.Tensor | None = None,
    *,
    names: tuple[str, str, str],
    number: float = 0.0,
) -> LaunchPlan:
    """y = operation(x, second) or operation(x, number); x and second are (T, C), rows at any strides.

    Parameters
    ----------
    names : of the buffers x, second and y. Where y is x it has its strides, else it is in one piece.

    Raises
    ------
    ShapeError : there is nothing to do.
    """
    if not x.numel():
        raise ShapeError(f"{operation.name} of {tuple(x.shape)}")
    rows, columns = x.shape
    width = vector_width(x) if second is None else vector_width(x, second)
    row_vectors = columns // width
    return LaunchPlan(
        Specialisation("elementwise.cu", "elementwise", (("WIDTH", width), ("OPERATION", int(operation)))),
        grid=blocks_of(rows * row_vectors),
        block=(THREADS, 1, 1),
        arguments=(
            *names,
            *integers(rows * row_vectors, row_vectors, x.stride(0)),
            *integers(
                0 if second is None else second.stride(0), x.stride(0) if names[2] == names[0] else columns
            ),
            float_bits(number),
        ),
        begins_early=True,
    )
