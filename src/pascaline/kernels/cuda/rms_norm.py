"""Launches of rms_norm.cu: rows of tokens, or of each head of tokens, by their root mean squares."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.row_vectors import integers, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation, float_bits

_WARP = 32
_MOST_THREADS = 1024
_WARPS_OF_SHORT_ROWS = 4


@dataclass(frozen=True)
class RowShape:
    """How threads take a row; the same for all kernels that normalise rows of so many columns.

    Parameters
    ----------
    width : numbers of a vector, 4 or 1.
    warps : that take a row.
    vectors : of a thread.
    """

    width: int
    warps: int
    vectors: int

    @property
    def definitions(self) -> tuple[tuple[str, int], ...]:
        """Macros of row_norm.cuh."""
        return (("WIDTH", self.width), ("ROW_WARPS", self.warps), ("VECTORS", self.vectors))


def row_shape(columns: int, width: int) -> RowShape:
    """A warp for what it holds in two vectors a thread, else a block: of two a thread, or of the most threads.

    It does not depend on the number of rows: nor do the bits of a row.
    """
    vectors = -(-columns // width)
    if vectors <= 2 * _WARP:
        return RowShape(width, 1, -(-vectors // _WARP))
    threads = min(_MOST_THREADS, -(-vectors // (2 * _WARP)) * _WARP)
    return RowShape(width, threads // _WARP, -(-vectors // threads))


def plan_rms_norm(x: torch.Tensor, gain_dtype: torch.dtype, epsilon: float) -> LaunchPlan:
    """Buffers: "x" (T, C) or (T, H, C), rows at any strides, "gain" (C), and "y", in one piece.

    Raises
    ------
    ShapeError : there is nothing to do.
    """
    if not x.numel():
        raise ShapeError(f"a norm of {tuple(x.shape)}")
    tokens, heads, columns = x.shape[0], x.shape[1] if x.dim() == 3 else 1, x.shape[-1]
    shape = row_shape(columns, vector_width(x))
    rows_a_block = _WARPS_OF_SHORT_ROWS if shape.warps == 1 else 1
    definitions = (*shape.definitions, ("ROWS", rows_a_block), ("GAIN_TYPE", NUMBER_TYPES[gain_dtype]))
    return LaunchPlan(
        Specialisation("rms_norm.cu", "rms_norm", definitions),
        grid=(-(-tokens * heads // rows_a_block), 1, 1),
        block=(_WARP * shape.warps * rows_a_block, 1, 1),
        arguments=(
            *("x", "gain", "y"),
            *integers(tokens * heads, heads, columns, x.stride(0), x.stride(1) if x.dim() == 3 else 0),
            float_bits(epsilon),
        ),
        begins_early=True,
    )
