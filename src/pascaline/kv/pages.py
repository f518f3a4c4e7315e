"""How large pages are."""

from __future__ import annotations

from pascaline.checkpoint.model_config import ModelConfig

PAGE_SIZE = 16
"""Tokens a page: small enough to waste little on short sequences, large enough to gather fast."""


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_SIZE)


def page_bytes(config: ModelConfig, element_bytes: int) -> int:
    """Bytes of one page over all layers, keys and values of `element_bytes` each."""
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return PAGE_SIZE * per_token * element_bytes
