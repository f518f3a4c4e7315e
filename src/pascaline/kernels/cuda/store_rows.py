"""Launches of store_rows.cu: keys or values to their places in the pages."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.attention_call import CACHE_TYPES
from pascaline.kernels.cuda.row_vectors import blocks_of, head_shape, integers, vector_width
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation

BLOCK_HEADS = 4
"""Of a block, a warp each."""


def cache_strides(cache: torch.Tensor) -> tuple[Integer, ...]:
    """Tokens a page, and the strides of pages, of tokens and of heads, of a cache (P, B, KV, D)."""
    return integers(cache.shape[1], *cache.stride()[:3])


def plan_store_rows(rows: torch.Tensor, cache: torch.Tensor) -> LaunchPlan:
    """Buffers: "rows" (T, KV, D), "slots" (T) int64, and "cache" (P, B, KV, D) in any order of its memory.

    A cache of int8 holds codes: value = scale · code; a token's head has one, in "scales", fp32 (P, KV, B).

    Parameters
    ----------
    cache : fp32, fp16, bf16 or int8; the elements of a head are neighbours.

    Raises
    ------
    ShapeError : there is nothing to do, or a head's elements do not lie side by side.
    """
    if not rows.numel():
        raise ShapeError(f"storing {tuple(rows.shape)}")
    tokens, heads, head_dim = rows.shape
    definitions = (
        *head_shape(head_dim, vector_width(rows, cache)),
        ("CACHE_TYPE", CACHE_TYPES[cache.dtype]),
        ("HEADS", BLOCK_HEADS),
    )
    return LaunchPlan(
        Specialisation("store_rows.cu", "store_rows", definitions),
        grid=blocks_of(tokens * heads, BLOCK_HEADS),
        block=(32 * BLOCK_HEADS, 1, 1),
        arguments=(
            *("rows", "slots", "cache", "scales" if cache.dtype == torch.int8 else "absent"),
            *integers(tokens * heads, heads, head_dim, rows.stride(0), rows.stride(1)),
            *cache_strides(cache),
        ),
        begins_early=True,
    )
