"""What attention over pages is specialised for and what its kernels are given."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.specialisation import Argument, Integer, float_bits

PAGE_SIZE = 16
"""Tokens a page, always: a page of one head is one piece of PAGE_SIZE · D elements."""

CACHE_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}
"""As definitions name the types of keys and values."""

ATTENTION_BUFFERS = (
    *("query", "key_cache", "value_cache", "key_scales", "value_scales"),
    *("page_table", "query_start", "context_lengths", "y"),
)
"""Names of a launch's buffers, in the kernels' order; scales are null but for caches of int8."""


@dataclass(frozen=True)
class AttentionCall:
    """Causal attention of T new tokens of S sequences over keys and values in pages of 16 tokens.

    Buffers: query fp32 (T, H, D), heads side by side; key_cache and value_cache (pages, KV, 16, D) of
    `cache_dtype`, of int8 with key_scales and value_scales fp32 (pages, KV, 16); page_table int32 (S, W),
    query_start int32 (S + 1), context_lengths int32 (S); y fp32 (T, H, D). Their meaning is that of the op
    (kernels/paged_attention.py); a sequence without new tokens has nothing else that may be read.

    Parameters
    ----------
    tokens, sequences, table_width : T, S and W, of the buffers: sequences may be fewer and shorter.
    heads, key_value_heads : H and KV.
    head_dim : D.
    query_stride : elements from a token's query to the next one's, at least H · D.
    window : tokens that a token sees, itself included; 0: all.
    softcap : scores are softcap · tanh(score / softcap); 0: as they are.
    scale : of scores.

    Raises
    ------
    ShapeError : query heads do not share key/value heads evenly, or there is nothing to do.
    """

    tokens: int
    sequences: int
    table_width: int
    heads: int
    key_value_heads: int
    head_dim: int
    query_stride: int
    cache_dtype: torch.dtype = torch.float16
    window: int = 0
    softcap: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if min(self.tokens, self.sequences, self.table_width, self.head_dim) < 1:
            raise ShapeError(
                f"attention of {self.tokens} tokens of {self.sequences} sequences of {self.table_width} "
                f"pages, heads of {self.head_dim}"
            )
        if self.key_value_heads < 1 or self.heads < 1 or self.heads % self.key_value_heads:
            raise ShapeError(f"{self.heads} query heads over {self.key_value_heads} key/value heads")
        if self.query_stride < self.heads * self.head_dim:
            raise ShapeError(
                f"queries of {self.heads} × {self.head_dim} elements, {self.query_stride} elements apart"
            )

    @property
    def group(self) -> int:
        """Query heads that share a key/value head."""
        return self.heads // self.key_value_heads

    @property
    def definitions(self) -> tuple[tuple[str, int], ...]:
        """Macros that all kernels of attention have."""
        return (
            ("HEAD_DIM", self.head_dim),
            ("GROUP", self.group),
            ("CACHE_TYPE", CACHE_TYPES[self.cache_dtype]),
            ("HAS_WINDOW", int(self.window > 0)),
            ("HAS_SOFT_CAP", int(self.softcap > 0)),
        )

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """What all kernels of attention take first.

        `ATTENTION_BUFFERS`, then int tokens, sequences, table_width, key_value_heads, query_stride, window,
        and uint32_t soft_cap_bits, scale_bits (`bits_to_float`).
        """
        numbers = (self.tokens, self.sequences, self.table_width, self.key_value_heads)
        return (
            *ATTENTION_BUFFERS,
            *(Integer(number) for number in (*numbers, self.query_stride, self.window)),
            float_bits(self.softcap),
            float_bits(self.scale),
        )
