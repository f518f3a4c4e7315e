"""Gemma 2: a norm before and after each block, soft caps, and a window in every other layer.

Norm gains are stored without the 1 that they are around, the embedding is multiplied by the root of
its width, and queries are scaled by a number of their own.

Source: Gemma Team 2024, arXiv:2408.00118; config.json of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pascaline.checkpoint.hf_config import ConfigRules
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.models import llama
from pascaline.models.family import Family
from pascaline.models.style import DecoderStyle

GGUF_NAMES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
ACTIVATION = "gelu_pytorch_tanh"
DEFAULTS: Mapping[str, object] = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": ACTIVATION,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def style(config: ModelConfig) -> DecoderStyle:
    return DecoderStyle(
        attention_bias=config.attention_bias,
        attention_output_bias=config.attention_bias,
        norms_around=True,
        embedding_scale=config.hidden_size**0.5,
    )


def query_scale_of(settings: Mapping[str, object], largest_layers: int) -> Mapping[str, object]:
    """No GGUF has `query_pre_attn_scalar`: llama.cpp knows the model by its number of layers.

    It is the width over the heads in the largest one, and the head size in the others.
    """
    hidden, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    is_largest = settings.get("num_hidden_layers") == largest_layers
    if is_largest and isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        return {"query_pre_attn_scalar": hidden // heads}
    return {}


FAMILY = Family(
    model_type="gemma2",
    style=style,
    rules=ConfigRules(
        windows="pattern",
        settings=frozenset({"query_pre_attn_scalar", *CAPS}),
        activation_field="hidden_activation",
        defaults={
            **DEFAULTS,
            "sliding_window_pattern": 2,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
    ),
    activation=ACTIVATION,
    norm_offset=1.0,
    gguf_names=GGUF_NAMES,
    gguf_settings=lambda settings: {
        "sliding_window": 4096,
        "sliding_window_pattern": 2,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        **query_scale_of(settings, largest_layers=46),
    },
    tiny=replace(
        llama.FAMILY.tiny,
        model_type="gemma2",
        num_hidden_layers=3,
        head_dim=24,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        hidden_act=ACTIVATION,
        sliding_window=19,
        layer_types=("sliding_attention", "full_attention", "sliding_attention"),
        query_pre_attn_scalar=24.0,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=5.0,
    ),
)
