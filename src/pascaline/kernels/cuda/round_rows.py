"""Launches of round_rows.cu and add_products.cu: before and after a library's products of inputs in bf16."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES, LinearCall
from pascaline.kernels.cuda.row_vectors import THREADS, blocks_of, integers
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation

_WIDTH = 4


def plan_round_rows(rows: int, columns: int, dtype: torch.dtype, numbers: int) -> LaunchPlan:
    """x as sums of `numbers` bf16 numbers, 1 or 2.

    Buffers: "x" (rows, columns) of `dtype`, "halves" (numbers · rows, columns): all first numbers, then the
    second ones.

    Raises
    ------
    ShapeError : there is nothing to do.
    """
    if min(rows, columns) < 1:
        raise ShapeError(f"{rows} × {columns} inputs to round")
    width = _WIDTH if columns % _WIDTH == 0 else 1
    vectors = rows * columns // width
    definitions = (("INPUT_TYPE", NUMBER_TYPES[dtype]), ("WIDTH", width), ("BRAIN_NUMBERS", numbers))
    return LaunchPlan(
        Specialisation("round_rows.cu", "round_rows", definitions),
        grid=blocks_of(vectors),
        block=(THREADS, 1, 1),
        arguments=("x", "halves", *integers(vectors)),
        begins_early=True,
    )


def plan_add_products(call: LinearCall, numbers: int) -> LaunchPlan:
    """y (rows, outputs) = the products of inputs in `numbers` bf16 numbers, added up (+ bias).

    Buffers: "products" (2 · rows, outputs) fp32 where there are two, else y itself, and "bias" (outputs)
    where there is one.

    Raises
    ------
    ShapeError : the product is gated or has a residual, which would have to be added after this.
    """
    if call.is_gated or call.has_residual:
        raise ShapeError(f"adding up products of {call}")
    width = _WIDTH if call.outputs % _WIDTH == 0 else 1
    row_vectors = call.outputs // width
    product_dtype = torch.float32 if numbers == 2 else call.output_dtype
    definitions = (
        ("WIDTH", width),
        ("BRAIN_NUMBERS", numbers),
        ("PRODUCT_TYPE", NUMBER_TYPES[product_dtype]),
        ("OUTPUT_TYPE", NUMBER_TYPES[call.output_dtype]),
        ("HAS_BIAS", int(call.bias_dtype is not None)),
        ("BIAS_TYPE", NUMBER_TYPES[call.bias_dtype or torch.float32]),
    )
    return LaunchPlan(
        Specialisation("add_products.cu", "add_products", definitions),
        grid=blocks_of(call.rows * row_vectors),
        block=(THREADS, 1, 1),
        arguments=(
            "products" if numbers == 2 else "y",
            "bias",
            "y",
            *integers(call.rows * row_vectors, row_vectors),
        ),
        begins_early=True,
    )
