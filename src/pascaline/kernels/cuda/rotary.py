"""Launches of rotary.cu: heads rotated by their tokens' positions."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.row_vectors import THREADS, blocks_of, integers, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation


def plan_rotary(x: torch.Tensor, cosine: torch.Tensor) -> LaunchPlan:
    """Buffers: "x" (T, H, D), "positions" (T) int64, "cosine" and "sine" (P, R) fp32 in one piece, and "y".

    Parameters
    ----------
    cosine : of which the shape counts.

    Raises
    ------
    ShapeError : there is nothing to do.
    """
    if not x.numel():
        raise ShapeError(f"a rotation of {tuple(x.shape)}")
    tokens, heads, head_dim = x.shape
    width = vector_width(x, cosine)
    vectors = tokens * heads * head_dim // width
    return LaunchPlan(
        Specialisation("rotary.cu", "rotary", (("WIDTH", width),)),
        grid=blocks_of(vectors),
        block=(THREADS, 1, 1),
        arguments=(
            *("x", "positions", "cosine", "sine", "y"),
            *integers(vectors, heads, head_dim // width, cosine.shape[1], x.stride(0), x.stride(1)),
        ),
        begins_early=True,
    )
