"""Mistral 7B, Mistral Nemo and Ministral: Llama's shape, with a window in all layers or in some.

Their GGUFs call themselves "llama" and have no window.

Source: Jiang et al. 2023, arXiv:2310.06825; config.json of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from pascaline.checkpoint.hf_config import ConfigRules
from pascaline.models import llama
from pascaline.models.family import Family
from pascaline.models.style import DecoderStyle

FAMILY = Family(
    model_type="mistral",
    other_model_types=("ministral",),
    style=lambda _: DecoderStyle(),
    rules=ConfigRules(
        windows="all",
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    ),
    tiny=replace(
        llama.FAMILY.tiny,
        model_type="mistral",
        head_dim=24,
        sliding_window=19,
        layer_types=("sliding_attention",) * 2,
    ),
)
