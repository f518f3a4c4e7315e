"""Launches of scale_back.cu: products of rows that scale_rows.cu has scaled, and their bias."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES, LinearCall
from pascaline.kernels.cuda.row_vectors import THREADS, blocks_of, integers
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation

_WIDTH = 4


def plan_scale_back(call: LinearCall) -> LaunchPlan:
    """y = y · factors (+ bias), in place.

    Buffers: "y" (rows, outputs), "factors" (rows) fp32, "bias" (outputs) where there is one.

    Raises
    ------
    ShapeError : the product is gated or has a residual, which would have to be added after this.
    """
    if call.is_gated or call.has_residual:
        raise ShapeError(f"scaling back of {call}")
    width = _WIDTH if call.outputs % _WIDTH == 0 else 1
    row_vectors = call.outputs // width
    definitions = (
        ("WIDTH", width),
        ("OUTPUT_TYPE", NUMBER_TYPES[call.output_dtype]),
        ("HAS_BIAS", int(call.bias_dtype is not None)),
        ("BIAS_TYPE", NUMBER_TYPES[call.bias_dtype or torch.float32]),
    )
    return LaunchPlan(
        Specialisation("scale_back.cu", "scale_back", definitions),
        grid=blocks_of(call.rows * row_vectors),
        block=(THREADS, 1, 1),
        arguments=("y", "factors", "bias", *integers(call.rows * row_vectors, row_vectors)),
        begins_early=True,
    )
