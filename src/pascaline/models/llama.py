"""Llama 2 and 3, SmolLM2 and others of model_type "llama".

Source: Touvron et al. 2023, arXiv:2307.09288; config.json of the published checkpoints.
"""

from __future__ import annotations

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.models.family import Family
from pascaline.models.style import DecoderStyle


def gguf_interleaved_heads(config: ModelConfig, module: str) -> int | None:
    """GGUF stores q and k of this family with the two halves of each head interleaved."""
    return {
        "self_attn.q_proj": config.num_attention_heads,
        "self_attn.k_proj": config.num_key_value_heads,
    }.get(module)


FAMILY = Family(
    model_type="llama",
    style=lambda config: DecoderStyle(config.attention_bias, config.attention_bias),
    gguf_interleaved_heads=gguf_interleaved_heads,
    tiny=ModelConfig(
        model_type="llama",
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        hidden_act="silu",
        bos_token_id=1,
        eos_token_ids=(2,),
    ),
)
