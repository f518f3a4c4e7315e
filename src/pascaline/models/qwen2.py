"""Qwen2 and Qwen2.5: Llama's shape with a bias on q, k and v.

Source: Yang et al. 2024, arXiv:2407.10671; config.json of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from pascaline.checkpoint.hf_config import ConfigRules
from pascaline.models import llama
from pascaline.models.family import Family
from pascaline.models.style import DecoderStyle

FAMILY = Family(
    model_type="qwen2",
    style=lambda _: DecoderStyle(attention_bias=True),
    rules=ConfigRules(
        windows="upper",
        defaults={"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    ),
    tiny=replace(
        llama.FAMILY.tiny,
        model_type="qwen2",
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        tie_word_embeddings=True,
    ),
)
