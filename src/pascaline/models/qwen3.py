"""Qwen3: Llama's shape with an RMS norm of each head's query and key.

Source: Qwen Team 2025, arXiv:2505.09388; config.json of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from pascaline.checkpoint.hf_config import ConfigRules
from pascaline.models import llama
from pascaline.models.family import Family
from pascaline.models.style import DecoderStyle

FAMILY = Family(
    model_type="qwen3",
    style=lambda config: DecoderStyle(
        attention_bias=config.attention_bias,
        attention_output_bias=config.attention_bias,
        query_key_norm=True,
    ),
    rules=ConfigRules(
        windows="upper",
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
    ),
    tiny=replace(
        llama.FAMILY.tiny,
        model_type="qwen3",
        head_dim=24,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        tie_word_embeddings=True,
    ),
)
