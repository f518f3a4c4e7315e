"""GGUF types in blocks of 256 and mixed files, in models of every family, against transformers.

What a type's values are is tested bit for bit in tests/unit/test_formats.py; here, that a model of
them computes what transformers does with those values.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from test_tiny_models import GGUF_FAMILIES, worst_of_run
from tiny_checkpoints import random_model, write_gguf
from transformers_reference import ALLOWED_UNITS

from pascaline.checkpoint.model_config import ModelConfig

# What llama.cpp's mixtures have: more bits where it matters most, and in some of the layers only.
MIXTURES: dict[str, tuple[str, dict[str, str]]] = {
    "Q2_K mixture": ("Q2_K", {"0.v_proj": "Q4_K", "down_proj": "Q3_K", "o_proj": "Q3_K", "lm_head": "Q6_K"}),
    "Q3_K_M": ("Q3_K", {"v_proj": "Q5_K", "0.down_proj": "Q5_K", "down_proj": "Q4_K", "lm_head": "Q6_K"}),
    "Q4_K_M": ("Q4_K", {"0.v_proj": "Q6_K", "0.down_proj": "Q6_K", "lm_head": "Q6_K"}),
    "Q4_K_M of odd widths": ("Q5_0", {"v_proj": "Q8_0", "down_proj": "Q6_K", "embed_tokens": "Q8_0"}),
    "Q5_K_M": ("Q5_K", {"v_proj": "Q6_K", "1.down_proj": "Q6_K", "lm_head": "Q6_K"}),
    "IQ4_XS": ("IQ4_XS", {"v_proj": "Q5_K", "embed_tokens": "Q6_K", "lm_head": "Q6_K"}),
    "everything": (
        "Q4_0",
        {
            "0.q_proj": "Q4_1",
            "0.k_proj": "Q5_0",
            "0.v_proj": "Q5_1",
            "0.o_proj": "MXFP4",
            "0.gate_proj": "IQ4_NL",
            "0.up_proj": "IQ4_XS",
            "0.down_proj": "Q2_K",
            "lm_head": "BF16",
            "1.q_proj": "Q3_K",
            "1.k_proj": "Q4_K",
            "1.v_proj": "F16",
            "1.o_proj": "Q5_K",
            "1.gate_proj": "Q6_K",
            "1.up_proj": "F32",
            "1.down_proj": "Q8_0",
        },
    ),
}


def wide(family: str) -> ModelConfig:
    """The family's tiny model with every width a multiple of 256."""
    config = GGUF_FAMILIES[family]
    head_dim = 32 if 256 % config.head_dim else config.head_dim
    return replace(
        config,
        hidden_size=256,
        intermediate_size=256,
        num_attention_heads=256 // head_dim,
        num_key_value_heads=2,
        head_dim=head_dim,
        query_pre_attn_scalar=head_dim if config.query_pre_attn_scalar else None,
    )


@pytest.mark.parametrize("type_name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
@pytest.mark.parametrize("family", GGUF_FAMILIES)
def test_types_in_blocks_of_256(
    family: str, type_name: str, tmp_path: Path, device: Literal["cpu", "cuda"]
) -> None:
    model = random_model(wide(family))
    write_gguf(tmp_path / "model.gguf", model, type_name)
    assert worst_of_run(tmp_path / "model.gguf", model, device) <= ALLOWED_UNITS


@pytest.mark.parametrize("mixture", MIXTURES)
def test_mixed_files(mixture: str, tmp_path: Path, device: Literal["cpu", "cuda"]) -> None:
    type_name, others = MIXTURES[mixture]
    model = random_model(wide("llama"))
    write_gguf(tmp_path / "model.gguf", model, type_name, others=others)
    assert worst_of_run(tmp_path / "model.gguf", model, device) <= ALLOWED_UNITS
