"""What families declare: listed, named as in GGUF, in the right order of rows, refused when unknown."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace

import gguf
import pytest
import torch

import pascaline.models
from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.layers.rotary import inverse_frequencies
from pascaline.models import FAMILIES, Decoder, Family, build, family_of, gguf_name

LLAMA, QWEN2 = FAMILIES["llama"], FAMILIES["qwen2"]


def built(config: ModelConfig) -> Decoder:
    return build(config, Launcher(Policy(Chip(torch.device("cpu")), KERNELS)))


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
    config = replace(family.tiny, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
    architecture = gguf.MODEL_ARCH[family.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    slots = list(built(config).weight_slots())
    assert len({slot.name for slot in slots}) == len(slots)
    for slot in slots:
        expected = names.get_name(slot.name, try_suffixes=(".weight", ".bias"))
        assert expected is not None, f"{slot.name} is no name of Hugging Face's"
        assert gguf_name(slot.name) == expected


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
        gguf_name(name)


@pytest.mark.parametrize(
    ("family", "options", "biased"),
    [
        (LLAMA, {}, set()),
        (LLAMA, {"attention_bias": True}, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (LLAMA, {"mlp_bias": True}, {"gate_proj", "up_proj", "down_proj"}),
        (QWEN2, {}, {"q_proj", "k_proj", "v_proj"}),
    ],
)
def test_biases_are_where_the_family_has_them(
    family: Family, options: dict[str, bool], biased: set[str]
) -> None:
    names = [slot.name for slot in built(replace(family.tiny, **options)).weight_slots()]
    assert {name.split(".")[-2] for name in names if name.endswith(".bias")} == biased
    assert ("lm_head.weight" in names) == (not family.tiny.tie_word_embeddings)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 16), (9, 3, 64), (3, 1, 6)])
def test_llama_rows_are_put_back_as_llama_cpp_moved_them(heads: int, kv_heads: int, head_dim: int) -> None:
    config = replace(LLAMA.tiny, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim)
    for module, count in (("self_attn.q_proj", heads), ("self_attn.k_proj", kv_heads)):
        # Row r of a head is the half r // (D / 2) of pair r % (D / 2); the file has pairs together.
        moved = [0] * (count * head_dim)
        for head in range(count):
            for row in range(head_dim):
                half, pair = divmod(row, head_dim // 2)
                moved[head * head_dim + 2 * pair + half] = head * head_dim + row
        order = LLAMA.gguf_row_order(config, module)
        assert order is not None
        assert [moved[row] for row in order] == list(range(count * head_dim))


@pytest.mark.parametrize("module", ["self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm"])
def test_other_rows_stay_where_they_are(module: str) -> None:
    assert LLAMA.gguf_row_order(LLAMA.tiny, module) is None


@pytest.mark.parametrize("module", ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"])
def test_qwen2_rows_stay_where_they_are(module: str) -> None:
    assert QWEN2.gguf_row_order(QWEN2.tiny, module) is None


def test_an_unsupported_architecture_is_named_with_the_supported_ones() -> None:
    with pytest.raises(UnsupportedError, match=r"architecture is 'mamba' \(expected one of llama, qwen2\)"):
        family_of(replace(LLAMA.tiny, model_type="mamba"))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_an_unsupported_activation_is_named(family: Family) -> None:
    assert family_of(family.tiny) is family
    with pytest.raises(UnsupportedError, match=r"hidden_act is 'gelu' \(expected silu\)"):
        built(replace(family.tiny, hidden_act="gelu"))


def test_models_are_built_without_memory_for_weights() -> None:
    model = built(LLAMA.tiny)
    devices = {getattr(slot.module, slot.attribute).tensor.device.type for slot in model.weight_slots()}
    assert devices == {"meta"}


@pytest.mark.parametrize(
    ("theta", "scaling", "message"),
    [
        (1.0, RopeScaling("yarn", 2.0, 64), "rope_theta is 1 with YaRN"),
        (1e4, RopeScaling("llama3", 2.0, 64, low_freq_factor=1.0), "'llama3' lacks a setting"),
    ],
)
def test_impossible_rotary_settings_are_refused(theta: float, scaling: RopeScaling, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inverse_frequencies(replace(LLAMA.tiny, rope_theta=theta, rope_scaling=scaling))


def test_yarn_scales_attention_only_when_it_stretches() -> None:
    factors = {
        factor: inverse_frequencies(replace(LLAMA.tiny, rope_scaling=RopeScaling("yarn", factor, 64)))[1]
        for factor in (1.0, 4.0)
    }
    assert factors[1.0] == 1.0
    assert factors[4.0] == pytest.approx(1.1386294)  # 0.1 · ln 4 + 1, section 3.4 of the paper
