"""Launches of store_rows.cu: keys or values to their places in the pages."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.row_vectors import THREADS, blocks_of, integers, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation


def plan_store_rows(rows: torch.Tensor, cache: torch.Tensor) -> LaunchPlan:
    """Buffers: "rows" (T, KV, D), "slots" (T) int64, and "cache" (P, B, KV, D) in any order of its memory.

    Parameters
    ----------
    cache : fp32, fp16 or bf16; the elements of a head are neighbours.

    Raises
    ------
    ShapeError : there is nothing to do, or a head's elements do not lie side by side.
    """
    if not rows.numel():
        raise ShapeError(f"storing {tuple(rows.shape)}")
    tokens, heads, head_dim = rows.shape
    width = vector_width(rows, cache)
    vectors = tokens * heads * head_dim // width
    page_stride, token_stride, head_stride, _ = cache.stride()
    return LaunchPlan(
        Specialisation(
            "store_rows.cu", "store_rows", (("WIDTH", width), ("CACHE_TYPE", NUMBER_TYPES[cache.dtype]))
        ),
        grid=blocks_of(vectors),
        block=(THREADS, 1, 1),
        arguments=(
            *("rows", "slots", "cache"),
            *integers(vectors, heads, head_dim // width, rows.stride(0), rows.stride(1)),
            *integers(cache.shape[1], page_stride, token_stride, head_stride),
        ),
        begins_early=True,
    )
