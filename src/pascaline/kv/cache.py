"""The memory behind the pages."""

from __future__ import annotations

import torch

from pascaline.checkpoint.model_config import ModelConfig

PAGE_SIZE = 16
"""Tokens a page: small enough to waste little on short sequences, large enough to gather fast."""


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one page over all layers, keys and values."""
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return PAGE_SIZE * per_token * dtype.itemsize


class KeyValueCache:
    """Keys and values of all pages: two tensors a layer, each (pages, PAGE_SIZE, KV, D)."""

    def __init__(self, config: ModelConfig, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = (pages, PAGE_SIZE, config.num_key_value_heads, config.head_dim)
        # Zeros, not empty: padding of a page table is read (and masked), and must be finite. On the
        # CPU, zeroed memory costs nothing until it is touched.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [
            torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)
        ]
        self.bytes = pages * page_bytes(config, dtype)
