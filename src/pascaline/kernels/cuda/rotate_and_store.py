"""Launches of rotate_and_store.cu: a step's queries, keys and values between their linear and attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.attention_call import CACHE_TYPES
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.row_vectors import WARP, blocks_of, head_shape, integers, row_shape, vector_width
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation, float_bits
from pascaline.kernels.cuda.store_rows import BLOCK_HEADS, cache_strides


@dataclass(frozen=True)
class HeadNorm:
    """The norm of queries' and keys' heads, before they are rotated."""

    gain_dtype: torch.dtype
    epsilon: float


def plan_rotate_and_store(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cosine: torch.Tensor,
    cache: torch.Tensor,
    norm: HeadNorm | None = None,
) -> LaunchPlan:
    """Queries rotated to "y" (T, H, D), in one piece, keys rotated and values stored in the pages.

    Buffers: "query" (T, H, D), "key" and "value" (T, KV, D), "positions" and "slots" (T) int64, "cosine" and
    "sine" (P, R), "query_gain" and "key_gain" (D) with a norm, "y", "key_cache" and "value_cache" (P, B, KV,
    D) with equal strides; where those are of int8 "key_scales" and "value_scales", as `plan_store_rows` says.

    Parameters
    ----------
    cosine, cache : of which shape, strides and dtype count.

    Raises
    ------
    ShapeError : there is nothing to do, heads lie apart, or are too long for the norm by a warp.
    """
    tokens, heads, head_dim = query.shape
    key_heads = key.shape[1]
    if not query.numel():
        raise ShapeError(f"rotating {tuple(query.shape)}")
    if any(each.stride(1) != head_dim for each in (query, key, value) if each.shape[1] > 1):
        raise ShapeError("heads that lie apart", expected="a token's heads side by side")
    width = vector_width(query, key, value, cosine, cache)
    if norm is not None and row_shape(head_dim, width).warps > 1:
        raise ShapeError(f"norms of heads of {head_dim}", expected=f"{2 * WARP * width} at most")
    count = tokens * (heads + 2 * key_heads)
    is_int8 = cache.dtype == torch.int8
    definitions = (
        *head_shape(head_dim, width),
        ("CACHE_TYPE", CACHE_TYPES[cache.dtype]),
        ("HEADS", BLOCK_HEADS),
        ("HAS_NORM", int(norm is not None)),
        ("GAIN_TYPE", NUMBER_TYPES[torch.float32 if norm is None else norm.gain_dtype]),
    )
    return LaunchPlan(
        Specialisation("rotate_and_store.cu", "rotate_and_store", definitions),
        grid=blocks_of(count, BLOCK_HEADS),
        block=(32 * BLOCK_HEADS, 1, 1),
        arguments=(
            *("query", "key", "value"),
            *(("absent", "absent") if norm is None else ("query_gain", "key_gain")),
            *("positions", "cosine", "sine", "slots", "y", "key_cache", "value_cache"),
            *(("key_scales", "value_scales") if is_int8 else ("absent", "absent")),
            *integers(count, heads, key_heads, head_dim, cosine.shape[1]),
            *integers(query.stride(0), key.stride(0), value.stride(0)),
            *cache_strides(cache),
            float_bits(0.0 if norm is None else norm.epsilon),
        ),
        begins_early=True,
    )
