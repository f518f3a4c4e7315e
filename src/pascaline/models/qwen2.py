"""Qwen2 and Qwen2.5: Llama's shape with a bias on q, k and v.

Source: Yang et al. 2024, arXiv:2407.10671; config.json of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from pascaline.models import llama
from pascaline.models.decoder import DecoderStyle
from pascaline.models.family import Family, file_order

FAMILY = Family(
    model_type="qwen2",
    style=lambda _: DecoderStyle(attention_bias=True, attention_output_bias=False),
    gguf_row_order=file_order,
    tiny=replace(
        llama.FAMILY.tiny,
        model_type="qwen2",
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        tie_word_embeddings=True,
    ),
)
