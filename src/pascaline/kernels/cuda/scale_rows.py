"""Launches of scale_rows.cu: x in fp16 without overflow, and each row's factor."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation

_THREADS = 512
_WIDTH = 4


def plan_scale_rows(rows: int, columns: int, dtype: torch.dtype, *, is_permuted: bool = False) -> LaunchPlan:
    """x = scaled · factors, in the order that a weight stores inputs in where `is_permuted`.

    Buffers: "x" (rows, columns) of `dtype`, "inputs" where permuted, "scaled" (rows, columns) fp16 and
    "factors" (rows) fp32.
    """
    if min(rows, columns) < 1:
        raise ShapeError(f"{rows} × {columns} inputs to scale")
    width = _WIDTH if columns % _WIDTH == 0 and not is_permuted else 1
    definitions = (
        ("INPUT_TYPE", NUMBER_TYPES[dtype]),
        ("WIDTH", width),
        ("HAS_PERMUTATION", int(is_permuted)),
    )
    return LaunchPlan(
        Specialisation("scale_rows.cu", "scale_rows", definitions),
        grid=(rows, 1, 1),
        block=(_THREADS, 1, 1),
        arguments=("x", "inputs", "scaled", "factors", Integer(columns)),
        begins_early=True,
    )
