"""Gemma 3: as Gemma 2, with norms of each head's query and key in place of the soft caps.

Five of six layers have a window, and a rotary theta of their own. Of a model that sees images, too,
the language model is served.

Source: Gemma Team 2025, arXiv:2503.19786; config.json of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import replace

from pascaline.checkpoint.hf_config import ConfigRules
from pascaline.models import gemma2
from pascaline.models.family import Family

FAMILY = Family(
    model_type="gemma3",
    other_model_types=("gemma3_text",),
    style=lambda config: replace(gemma2.style(config), query_key_norm=True),
    rules=ConfigRules(
        windows="pattern",
        settings=frozenset({"query_pre_attn_scalar", "rope_local_base_freq", "final_logit_softcapping"}),
        activation_field="hidden_activation",
        defaults={
            **gemma2.DEFAULTS,
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "sliding_window_pattern": 6,
            "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0,
        },
    ),
    activation=gemma2.ACTIVATION,
    nested=True,
    roots={"model.language_model.": "", "language_model.model.": "language_model."},
    norm_offset=1.0,
    gguf_names=gemma2.GGUF_NAMES,
    gguf_settings=lambda settings: {
        "sliding_window_pattern": 6,
        "rope_local_base_freq": 10000.0,
        **gemma2.query_scale_of(settings, largest_layers=62),
    },
    tiny=replace(
        gemma2.FAMILY.tiny,
        model_type="gemma3",
        num_hidden_layers=7,
        rope_theta=1000000.0,
        rope_local_base_freq=10000.0,
        layer_types=(*("sliding_attention",) * 5, "full_attention", "sliding_attention"),
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
    ),
)
