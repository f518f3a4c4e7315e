"""Launches of rms_norm.cu: rows of tokens, or of each head of tokens, by their root mean squares."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.input_memory import (
    BrainForm,
    Form,
    ScaledForm,
    definitions_of,
    ordering_bytes,
    shapes_of,
)
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.row_vectors import WARP, integers, row_shape, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation, float_bits

_WARPS_OF_SHORT_ROWS = 4


def plan_rms_norm(
    x: torch.Tensor,
    gain_dtype: torch.dtype,
    epsilon: float,
    *,
    residual: torch.Tensor | None = None,
    form: Form | None = None,
) -> LaunchPlan:
    """Buffers: "x" (T, C) or (T, H, C), rows at any strides, "gain" (C), and "y", in one piece.

    Parameters
    ----------
    residual : (T, C), buffer "residual", rows at any stride: it becomes its sum with x, which is normalised.
    form : as a linear takes the result, in the buffers of `shapes_of` instead of "y", and in the order of
        "inputs" where permuted.

    Raises
    ------
    ShapeError : there is nothing to do, or rows that are not written so: of no whole vectors where they are
        quantised, or permuted and beyond shared memory.
    """
    if not x.numel():
        raise ShapeError(f"a norm of {tuple(x.shape)}")
    tokens, heads, columns = x.shape[0], x.shape[1] if x.dim() == 3 else 1, x.shape[-1]
    shape = row_shape(columns, vector_width(x) if residual is None else vector_width(x, residual))
    is_permuted = form is not None and form.has_permutation
    if isinstance(form, InputForm) and shape.width == 1:
        raise ShapeError(f"rows of {columns} numbers to quantise", expected="whole vectors of four")
    shared_bytes = ordering_bytes(columns) if is_permuted else 0
    rows_a_block = _WARPS_OF_SHORT_ROWS if shape.warps == 1 and not is_permuted else 1
    definitions = (
        *shape.definitions,
        ("ROWS", rows_a_block),
        ("GAIN_TYPE", NUMBER_TYPES[gain_dtype]),
        ("HAS_RESIDUAL", int(residual is not None)),
        ("IS_QUANTISED", int(isinstance(form, InputForm))),
        ("IS_SCALED", int(isinstance(form, ScaledForm))),
        ("IS_ROUNDED", int(isinstance(form, BrainForm))),
        *(() if form is None else definitions_of(form)),
    )
    outputs = ("y",) if form is None else (*shapes_of(form, tokens, columns),)
    return LaunchPlan(
        Specialisation("rms_norm.cu", "rms_norm", definitions),
        grid=(-(-tokens * heads // rows_a_block), 1, 1),
        block=(WARP * shape.warps * rows_a_block, 1, 1),
        arguments=(
            "x",
            "absent" if residual is None else "residual",
            "gain",
            "inputs" if is_permuted else "absent",
            *(*outputs, "absent", "absent")[:3],
            *integers(tokens * heads, heads, columns, x.stride(0), x.stride(1) if x.dim() == 3 else 0),
            *integers(0 if residual is None else residual.stride(0)),
            float_bits(epsilon),
        ),
        shared_bytes=shared_bytes,
        begins_early=True,
    )
