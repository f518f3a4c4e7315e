"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: Llama's shape, with q, k and v, and gate and up, in one tensor.

llama.cpp writes their window into GGUFs and does not use it; Hugging Face's models do, and so do we.

Source: Abdin et al. 2024, arXiv:2404.14219 and arXiv:2412.08905; config.json of the published
checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from pascaline.checkpoint.hf_config import ConfigRules
from pascaline.models import llama
from pascaline.models.family import Family
from pascaline.models.style import DecoderStyle

FAMILY = Family(
    model_type="phi3",
    style=lambda _: DecoderStyle(stored_as_one=True),
    rules=ConfigRules(
        windows="all",
        settings=frozenset({"partial_rotary_factor"}),
        defaults={
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        },
    ),
    tiny=replace(
        llama.FAMILY.tiny,
        model_type="phi3",
        partial_rotary_factor=0.75,
        sliding_window=19,
        layer_types=("sliding_attention",) * 2,
    ),
)
