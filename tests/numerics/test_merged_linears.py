"""What of a model's weights becomes one: q/k/v, gate/up, and act-order folded into rows; and what is refused.

That the results are right is shown by the logits in the other files; here, that it happens.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from gguf import GGMLQuantizationType
from quantised_checkpoints import Recipe, Settings, write_quantised
from safetensors.torch import load_file, save_file
from tiny_checkpoints import random_model, write_gguf

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ignore_progress
from pascaline.engine.loader import find_weights, load_weights, settle_tying
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.kernels.kernel import as_it_is
from pascaline.layers.decoder import build
from pascaline.models import FAMILIES, read_config
from pascaline.weights import Packed, Weight
from pascaline.workload.holdings import resident_bytes

LLAMA = FAMILIES["llama"].tiny


def layers(path: Path) -> list[dict[str, list[Weight]]]:
    """The weights of each decoder layer, by the module's name in it."""
    checkpoint = open_checkpoint(path)
    device = torch.device("cpu")
    model = build(
        read_config(checkpoint.hf_config, checkpoint.container), Launcher(Policy(Chip(device), KERNELS))
    )
    found = find_weights(model, checkpoint)
    resident = load_weights(model, checkpoint, found, device, as_it_is, ignore_progress)
    assert resident == model.resident_bytes()
    assert resident == resident_bytes((held for item in found for held in item.held()), "packed")
    checkpoint.close()
    prefix = "model.layers.{}."
    return [
        {
            module.path.removeprefix(prefix.format(index)): module.weights()
            for module in layer.modules()
            if module.path.startswith(prefix.format(index))
        }
        for index, layer in enumerate(model.layers)
    ]


def permutations(weights: list[Weight]) -> list[bool]:
    return [isinstance(weight, Packed) and weight.permutation is not None for weight in weights]


@pytest.mark.parametrize("stored_as", ["safetensors", "F16", "Q4_0", "Q8_0"])
def test_linears_of_one_input_are_one_weight(stored_as: str, tmp_path: Path) -> None:
    model = random_model(LLAMA)
    if stored_as == "safetensors":
        path = tmp_path
        model.save_pretrained(path)
    else:
        path = tmp_path / "model.gguf"
        write_gguf(path, model, stored_as)
    for layer in layers(path):
        assert [weight.shape for weight in layer["self_attn.qkv_proj"]] == [(64 + 32 + 32, 64)]
        assert [weight.shape for weight in layer["mlp.gate_up_proj"]] == [(96 + 96, 64)]


def test_parts_that_are_packed_differently_stay_apart(tmp_path: Path) -> None:
    """As in mixed GGUFs, whose v has more bits than q and k."""
    model = random_model(LLAMA)
    write_gguf(tmp_path / "plain.gguf", model, "Q4_0")
    reader = gguf.GGUFReader(tmp_path / "plain.gguf")
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name, item in reader.fields.items():
        if name.startswith("llama."):
            writer.add_key_value(name, item.contents(), item.types[0])
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if tensor.name in ("blk.0.attn_v.weight", "blk.1.attn_q.weight", "blk.1.ffn_gate.weight"):
            kind = GGMLQuantizationType.Q8_0
            data = gguf.quantize(gguf.dequantize(tensor.data, tensor.tensor_type), kind)
        writer.add_tensor(tensor.name, numpy.array(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first, second = layers(path)
    assert [weight.shape[0] for weight in first["self_attn.qkv_proj"]] == [96, 32]
    assert [weight.shape[0] for weight in first["mlp.gate_up_proj"]] == [192]
    assert [weight.shape[0] for weight in second["self_attn.qkv_proj"]] == [64, 64]
    assert [weight.shape[0] for weight in second["mlp.gate_up_proj"]] == [96, 96]


@pytest.mark.parametrize("alike", [True, False])
def test_act_order_is_folded_where_it_is_free(alike: bool, tmp_path: Path) -> None:
    """down takes gate's and up's rows in its own order; the others gather their input."""
    settings = Settings(4, 32, act_order=True)
    recipe = Recipe("gptq", settings, one_order_an_input=alike)
    write_quantised(tmp_path, random_model(LLAMA, torch.float16), recipe)
    for layer in layers(tmp_path):
        assert permutations(layer["mlp.down_proj"]) == [False]
        assert permutations(layer["self_attn.o_proj"]) == [True]
        assert permutations(layer["mlp.gate_up_proj"]) == ([True] if alike else [True] * 2)
        assert permutations(layer["self_attn.qkv_proj"]) == ([True] if alike else [True] * 3)


@pytest.mark.parametrize(
    "overrides", [{r".*k_proj": Settings(8)}, {r".*k_proj": Settings(4, 64)}, {r".*k_proj": None}]
)
def test_bits_and_group_size_must_agree(overrides: dict[str, Settings | None], tmp_path: Path) -> None:
    write_quantised(tmp_path, random_model(LLAMA, torch.float16), Recipe("gptq", overrides=overrides))
    for layer in layers(tmp_path):
        assert [weight.shape[0] for weight in layer["self_attn.qkv_proj"]] == [64, 32, 32]
        assert [weight.shape[0] for weight in layer["mlp.gate_up_proj"]] == [192]


def test_biases_of_merged_linears_are_one(tmp_path: Path) -> None:
    config = replace(LLAMA, attention_bias=True, mlp_bias=True)
    random_model(config).save_pretrained(tmp_path)
    for layer in layers(tmp_path):
        assert [weight.shape for weight in layer["self_attn.qkv_proj"]] == [(128, 64), (128,)]
        assert [weight.shape for weight in layer["mlp.gate_up_proj"]] == [(192, 64), (192,)]


def edited(folder: Path, change: dict[str, torch.Tensor], config: dict[str, object] | None = None) -> Path:
    """A folder with some tensors more, or others, and other settings."""
    tensors = load_file(folder / "model.safetensors") | change
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    return folder


def test_a_head_of_its_own_counts_more_than_the_settings(tmp_path: Path) -> None:
    random_model(replace(LLAMA, tie_word_embeddings=True)).save_pretrained(tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    for head, tied in ((embedding, True), (embedding + 1, False), (embedding.half(), False)):
        checkpoint = open_checkpoint(edited(tmp_path, {"lm_head.weight": head.clone()}))
        config = read_config(checkpoint.hf_config, checkpoint.container)
        assert config.tie_word_embeddings
        assert settle_tying(config, checkpoint).tie_word_embeddings == tied


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "model.layers.2.mlp.up_proj.weight"]
)
def test_tensors_that_nobody_reads_are_refused(name: str, tmp_path: Path) -> None:
    """A model of another family, or with more layers, under these settings."""
    random_model(LLAMA).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=rf"has the tensor '{name}', which a model of type 'llama'"):
        layers(edited(tmp_path, {name: torch.ones(64)}))


def test_tensors_that_change_nothing_are_passed_over(tmp_path: Path) -> None:
    """AutoGPTQ's biases of zeros, tables of frequencies, the image part of a model."""
    random_model(LLAMA).save_pretrained(tmp_path)
    needless = {
        "model.layers.0.self_attn.q_proj.bias": torch.zeros(64, dtype=torch.float16),
        "model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.layers.1.self_attn.k_proj.k_scale": torch.ones(1),
        "vision_tower.layers.0.weight": torch.ones(3, 3),
    }
    assert len(layers(edited(tmp_path, needless))) == 2
