"""What families declare: listed, named as in GGUF, in the right order of rows, refused when unknown."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from typing import cast

import gguf
import pytest
import torch
from transformers import Gemma3TextConfig

import pascaline.models
from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.layers.decoder import Decoder, build
from pascaline.layers.module import Layer
from pascaline.layers.rotary import inverse_frequencies
from pascaline.models import FAMILIES, Family, family_of, read_config
from pascaline.weights import Dense

LLAMA, QWEN2, QWEN3, MISTRAL, PHI3, GEMMA2, GEMMA3 = FAMILIES.values()
# GGUF's architecture where it is not the model type: llama.cpp has no Mistral.
ARCHITECTURES = {"mistral": "llama"}


def built(config: ModelConfig) -> Decoder:
    return build(config, Launcher(Policy(Chip(torch.device("cpu")), KERNELS)))


def tensor_names(config: ModelConfig) -> list[str]:
    """Of all tensors that a checkpoint must have, as Hugging Face calls them."""
    return [part.name for slot in built(config).weight_slots() for part in slot.parts]


def test_every_file_is_listed() -> None:
    found = {
        value.model_type
        for module in pkgutil.iter_modules(pascaline.models.__path__, "pascaline.models.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, Family)
    }
    assert found == set(FAMILIES)
    assert all(family.model_type == name == family.tiny.model_type for name, family in FAMILIES.items())


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_weight_has_the_name_that_the_gguf_package_gives_it(family: Family) -> None:
    biased = family.model_type in ("llama", "qwen2")
    config = replace(family.tiny, attention_bias=biased, mlp_bias=biased, tie_word_embeddings=False)
    architecture = gguf.MODEL_ARCH[ARCHITECTURES.get(family.model_type, family.model_type).upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors = tensor_names(config)
    assert len(set(tensors)) == len(tensors)
    for name in tensors:
        expected = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if name == "lm_head.weight" and family is GEMMA2:
            assert expected is None  # its head is its embedding, and there is no name for another
            continue
        assert expected is not None, f"{name} is no name of Hugging Face's"
        assert family.gguf_name(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "model.layers.0",
        "model.blocks.0.mlp.up_proj.weight",
        "weight",
        "",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"no GGUF name is known for '{name}'"):
        LLAMA.gguf_name(name)


@pytest.mark.parametrize(
    ("family", "options", "biased"),
    [
        (LLAMA, {}, set()),
        (LLAMA, {"attention_bias": True}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (LLAMA, {"mlp_bias": True}, {"gate_proj", "up_proj", "down_proj"}),
        (QWEN2, {}, {"q_proj", "k_proj", "v_proj"}),
        (QWEN3, {}, set()),
        (QWEN3, {"attention_bias": True}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (MISTRAL, {}, set()),
        (PHI3, {}, set()),
        (GEMMA2, {"attention_bias": True}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (GEMMA3, {}, set()),
    ],
)
def test_biases_are_where_the_family_has_them(
    family: Family, options: dict[str, bool], biased: set[str]
) -> None:
    names = tensor_names(replace(family.tiny, **options))
    assert {name.split(".")[-2] for name in names if name.endswith(".bias")} == biased
    assert ("lm_head.weight" in names) == (not family.tiny.tie_word_embeddings)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_heads_are_interleaved_in_the_llama_architecture_alone(family: Family) -> None:
    heads = {
        module: family.gguf_interleaved_heads(family.tiny, module)
        for module in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj")
    }
    # Mistral's GGUFs are of that architecture, and read as Llama's.
    expected = (4, 2, None, None) if family is LLAMA else (None,) * 4
    assert tuple(heads.values()) == expected


def test_an_unsupported_architecture_is_named_with_the_supported_ones() -> None:
    names = "llama, qwen2, qwen3, mistral, ministral, phi3, gemma2, gemma3, gemma3_text"
    with pytest.raises(UnsupportedError, match=rf"architecture is 'mamba' \(expected one of {names}\)"):
        family_of(replace(LLAMA.tiny, model_type="mamba"))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_an_unsupported_activation_is_named(family: Family) -> None:
    assert family_of(family.tiny) is family
    with pytest.raises(UnsupportedError, match=rf"hidden_act is 'gelu' \(expected {family.activation}\)"):
        built(replace(family.tiny, hidden_act="gelu"))


def test_models_are_built_without_memory_for_weights() -> None:
    layers = [module for module in built(LLAMA.tiny).modules() if isinstance(module, Layer)]
    weights = [cast(Dense, weight) for layer in layers for weight in layer.weights()]
    assert {weight.tensor.device.type for weight in weights} == {"meta"}


@pytest.mark.parametrize(
    ("theta", "scaling", "message"),
    [
        (1.0, RopeScaling("yarn", 2.0, 64), "rope_theta is 1 with YaRN"),
        (1e4, RopeScaling("llama3", 2.0, 64, low_freq_factor=1.0), "'llama3' lacks a setting"),
    ],
)
def test_impossible_rotary_settings_are_refused(theta: float, scaling: RopeScaling, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inverse_frequencies(replace(LLAMA.tiny, rope_theta=theta, rope_scaling=scaling), 64)


def test_yarn_scales_attention_only_when_it_stretches() -> None:
    factors = {
        factor: inverse_frequencies(replace(LLAMA.tiny, rope_scaling=RopeScaling("yarn", factor, 64)), 64)[1]
        for factor in (1.0, 4.0)
    }
    assert factors[1.0] == 1.0
    assert factors[4.0] == pytest.approx(1.1386294)  # 0.1 · ln 4 + 1, section 3.4 of the paper


def test_longrope_scales_attention_by_how_far_it_stretches() -> None:
    # Phi-3-mini-128k: √(1 + ln 32 / ln 4096), whichever list is used.
    scaling = RopeScaling("longrope", 32.0, 4096, short_factor=(1.0,) * 8, long_factor=(4.0,) * 8)
    config = replace(LLAMA.tiny, rope_scaling=scaling)
    for positions, divisor in ((4096, 1.0), (4097, 4.0)):
        frequencies, factor = inverse_frequencies(config, positions)
        assert factor == pytest.approx(1.1902380714)
        assert frequencies[0] == 1 / divisor


SPARSE_GEMMA: dict[str, object] = {
    # As published: most settings are the class's own.
    "model_type": "gemma3",
    "eos_token_id": [1, 106],
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


def test_a_sparse_config_has_the_defaults_of_its_class() -> None:
    config = read_config(SPARSE_GEMMA)
    expected = Gemma3TextConfig(**SPARSE_GEMMA["text_config"])
    assert config.model_type == "gemma3"
    for name in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "sliding_window",
        "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
        "tie_word_embeddings", "attention_bias",
    ):  # fmt: skip
        assert getattr(config, name) == getattr(expected, name), name
    assert config.hidden_act == expected.hidden_activation
    assert list(config.layer_types) == expected.layer_types
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    assert (config.rope_theta, config.rope_local_base_freq) == (1e6, 1e4)
    assert config.eos_token_ids == (1, 106)
    with pytest.raises(ConfigError, match="text_config is 3"):
        read_config(SPARSE_GEMMA | {"text_config": 3})


@pytest.mark.parametrize(
    ("name", "absent", "values"),
    [
        ("mistral", "sliding_window", {"sliding_window": 4096}),
        ("ministral", "sliding_window", {"model_type": "mistral", "sliding_window": 4096}),
        ("phi3", "sliding_window", {"sliding_window": None, "layer_types": ()}),
        ("gemma2", "sliding_window", {"sliding_window": 4096}),
        ("gemma2", "attn_logit_softcapping", {"attn_logit_softcapping": 50.0}),
        ("gemma2", "final_logit_softcapping", {"final_logit_softcapping": 30.0}),
        ("gemma2", "hidden_activation", {"hidden_act": "gelu_pytorch_tanh"}),
        ("gemma2", "tie_word_embeddings", {"tie_word_embeddings": True}),
        ("qwen3", "head_dim", {"head_dim": 128}),
    ],
)
def test_a_field_that_is_absent_is_what_transformers_makes_of_it(
    name: str, absent: str, values: dict[str, object]
) -> None:
    settings = {
        "model_type": name, "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 256, "sliding_window": 8, "hidden_act": "silu",
        "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": False,
    }  # fmt: skip
    settings.pop(absent, None)
    config = read_config(settings)
    for field, value in values.items():
        assert getattr(config, field) == value, field


def test_null_is_not_absent() -> None:
    settings = {
        "model_type": "mistral", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "sliding_window": None, "head_dim": None,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="num_key_value_heads is 8"):
        read_config(settings)
    config = read_config(settings | {"num_key_value_heads": None})
    assert (config.sliding_window, config.num_key_value_heads, config.head_dim) == (None, 4, 16)


@pytest.mark.parametrize(
    ("family", "layers", "expected"),
    [(GEMMA2, 46, 144.0), (GEMMA2, 42, None), (GEMMA3, 62, 144.0), (GEMMA3, 48, None)],
)
def test_a_gguf_of_the_largest_gemma_scales_queries_otherwise(
    family: Family, layers: int, expected: float | None
) -> None:
    settings = {
        "model_type": family.model_type, "vocab_size": 96, "hidden_size": 4608, "intermediate_size": 96,
        "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128,
        "max_position_embeddings": 8192, "sliding_window": 4096,
    }  # fmt: skip
    assert read_config(settings, "gguf").query_pre_attn_scalar == expected


def test_a_gguf_has_no_defaults_for_its_shape() -> None:
    with pytest.raises(ConfigError, match="hidden_size is missing"):
        read_config({"model_type": "gemma3"}, "gguf")
