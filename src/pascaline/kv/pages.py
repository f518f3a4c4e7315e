"""How large pages are, and what numbers they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.workload.op_costs import head_bytes

KeyValueDtype = Literal["auto", "fp16", "bf16", "int8", "fp32"]
"""Of the cache; int8 are codes, each head of a token with a scale of its own."""

KEY_VALUE_BYTES: Mapping[str, int] = {"fp16": 2, "bf16": 2, "int8": 1, "fp32": 4}
"""Of an element, by what there is beside "auto"."""

PAGE_SIZE = 16
"""Tokens a page: small enough to waste little on short sequences, large enough to gather fast."""


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_SIZE)


def page_bytes(config: ModelConfig, element_bytes: int) -> int:
    """Bytes of one page over all layers, keys and values of `element_bytes` each; codes' scales count in."""
    heads = 2 * config.num_hidden_layers * config.num_key_value_heads
    return PAGE_SIZE * heads * head_bytes(config.head_dim, element_bytes)
