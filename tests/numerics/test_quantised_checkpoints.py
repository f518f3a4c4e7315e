"""GPTQ, AWQ and compressed-tensors checkpoints: values bit for bit, and logits against transformers.

Three sources that know nothing of each other: the packers of `quantised_linears`, what the formats'
own tools wrote (tests/fixtures/quantised), and our readers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy
import pytest
import torch
from quantised_checkpoints import (
    Recipe,
    Settings,
    decoder_linears,
    read_quantised,
    write_linear,
    write_quantised,
    write_tensors,
)
from quantised_linears import (
    QuantisedLinear,
    Tensors,
    pack_awq,
    pack_compressed_tensors,
    pack_gptq,
    unpack_awq,
    unpack_compressed_tensors,
    unpack_gptq,
)
from safetensors.torch import load_file
from test_tiny_models import worst_of_run
from tiny_checkpoints import random_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers_reference import ALLOWED_UNITS

from pascaline.checkpoint.safetensors_folder import SafetensorsFolder
from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.formats import WeightReader
from pascaline.formats.destination import Card
from pascaline.models import FAMILIES
from pascaline.weights import Weight
from pascaline.workload.schemes import SCHEMES

FIXTURES = Path(__file__).parents[1] / "fixtures" / "quantised"
LAYERS = sorted(path.stem for path in FIXTURES.glob("*.safetensors"))
CPU = torch.device("cpu")
ROWS, COLUMNS = 64, 256
GROUP_SIZES = (32, 64, 128, -1)
ASYMMETRIC, ACT_ORDER = Settings(symmetric=False), Settings(act_order=True)


def weight_of(folder: Path, module: str, shape: tuple[int, int]) -> Weight:
    """What our reader makes of a module, within the bytes that it said and that the file has."""
    checkpoint = SafetensorsFolder(folder)
    stored = WeightReader.of(checkpoint).locate(f"{module}.weight", shape)
    weight = stored.load()
    in_file = sum(checkpoint.tensors[name].nbytes for name in stored.names)
    # A card's way, with memory of this machine in the card's place.
    card = Card(CPU)
    there = stored.load(card)
    card.close()
    assert there.resident_bytes == weight.resident_bytes
    assert torch.equal(values_of(there), values_of(weight))
    checkpoint.close()
    # The zeros of a row fill whole bytes, which only counts in rows as short as these.
    assert weight.resident_bytes <= stored.resident_bytes <= 1.02 * in_file + 2 * shape[0]
    return weight


def values_of(weight: Weight) -> torch.Tensor:
    values = torch.full(weight.shape, torch.nan)
    weight.dequantise(0, weight.shape[0], values)
    return values


def has_exact_values(folder: Path, expected: Mapping[str, torch.Tensor]) -> bool:
    """Whether each module's values equal the expected ones in every bit; +0 and −0 count as one."""
    return all(
        torch.equal(values_of(weight_of(folder, module, (values.shape[0], values.shape[1]))), values)
        for module, values in expected.items()
    )


def random_weight() -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(7)) * 0.05


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("act_order", [False, True], ids=["", "act-order"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_values(
    bits: int, group_size: int, symmetric: bool, act_order: bool, version: Literal[1, 2], tmp_path: Path
) -> None:
    recipe = Recipe("gptq", Settings(bits, group_size, symmetric, act_order), version=version)
    values = write_linear(tmp_path, random_weight(), recipe)
    assert has_exact_values(tmp_path, {"linear": values})


@pytest.mark.parametrize("symmetric", [True, False], ids=["no zero-point", "zero-point"])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_awq_values(group_size: int, symmetric: bool, tmp_path: Path) -> None:
    recipe = Recipe("awq", Settings(4, group_size, symmetric))
    values = write_linear(tmp_path, random_weight(), recipe)
    assert has_exact_values(tmp_path, {"linear": values})


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("act_order", [False, True], ids=["", "act-order"])
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors_values(
    bits: int, group_size: int, symmetric: bool, act_order: bool, scale_dtype: torch.dtype, tmp_path: Path
) -> None:
    settings = Settings(bits, group_size, symmetric, act_order)
    recipe = Recipe("compressed-tensors", settings, scale_dtype=scale_dtype)
    values = write_linear(tmp_path, random_weight(), recipe)
    assert has_exact_values(tmp_path, {"linear": values})


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors"])
def test_one_changed_bit_is_seen(
    method: Literal["gptq", "awq", "compressed-tensors"], tmp_path: Path
) -> None:
    """That the comparison can fail."""
    values = write_linear(tmp_path, random_weight(), Recipe(method))
    path = tmp_path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors["linear.weight_packed" if method == "compressed-tensors" else "linear.qweight"][3, 5] ^= 1 << 20
    write_tensors(tmp_path, tensors, Recipe(method))
    assert not has_exact_values(tmp_path, {"linear": values})


def packed_by_tool(name: str) -> tuple[Tensors, QuantisedLinear, torch.Tensor]:
    """A tool's packed tensors, the linear that it was given, and its own dequantised values.

    The codes are what those values, the scales and the zeros leave no choice in.
    """
    tensors = load_file(FIXTURES / f"{name}.safetensors")
    dequantised = tensors.pop("dequantised")
    zeros, order = (tensors.pop(key).long().numpy() for key in ("zeros", "group_of_input"))
    scales = tensors["weight_scale"] if "weight_scale" in tensors else tensors["scales"].t()
    steps = numpy.rint(dequantised.double().numpy() / scales.double().numpy()[:, order])
    bits = int(name.partition("bit")[0][-1])
    codes = steps.astype(numpy.int64) + zeros[:, order]
    return tensors, QuantisedLinear(bits, codes, zeros, scales, order), dequantised


@pytest.mark.parametrize("name", LAYERS)
def test_our_packers_and_the_tools_agree(name: str) -> None:
    tensors, linear, dequantised = packed_by_tool(name)
    version = 2 if name.endswith("v2") else 1
    if "weight_packed" in tensors:
        packed = pack_compressed_tensors(
            linear,
            symmetric="weight_zero_point" not in tensors,
            act_order="weight_g_idx" in tensors,
            unpacked_zeros="0.8.1" in name,
        )
        unpacked = unpack_compressed_tensors(tensors)
    elif "g_idx" in tensors:
        packed, unpacked = pack_gptq(linear, version), unpack_gptq(tensors, version)
    else:
        packed, unpacked = pack_awq(linear), unpack_awq(tensors)
    assert packed.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert packed[key].dtype == tensor.dtype
        assert torch.equal(packed[key], tensor), key
    # The tools multiply in 16 bits.
    assert torch.equal(linear.dequantised().to(dequantised.dtype), dequantised)
    assert torch.equal(unpacked.dequantised(), linear.dequantised())


@pytest.mark.parametrize("name", LAYERS)
def test_values_of_what_the_tools_packed(name: str, tmp_path: Path) -> None:
    tensors, linear, _ = packed_by_tool(name)
    _, columns = linear.codes.shape
    groups = linear.zeros.shape[1]
    settings = Settings(
        linear.bits,
        columns // groups if groups > 1 else -1,
        symmetric=len(numpy.unique(linear.zeros)) == 1,
        act_order=bool((numpy.diff(linear.group_of_input) < 0).any()),
    )
    methods: dict[str, Literal["gptq", "awq", "compressed-tensors"]] = {
        "gptqmodel": "gptq",
        "autogptq": "gptq",
        "autoawq": "awq",
        "compressed": "compressed-tensors",
    }
    recipe = Recipe(methods[name.partition("-")[0]], settings, version=2 if name.endswith("v2") else 1)
    write_tensors(tmp_path, {f"linear.{key}": value for key, value in tensors.items()}, recipe)
    assert has_exact_values(tmp_path, {"linear": linear.dequantised()})


def test_a_field_of_ones_is_a_zero_of_two_to_the_bits() -> None:
    """What version 1 makes of its largest stored zero, by AutoGPTQ's own dequantisation."""
    for name, bits in (("autogptq-3bit", 3), ("autogptq-4bit", 4)):
        _, linear, _ = packed_by_tool(name)
        assert linear.zeros.max() == 1 << bits


def test_other_methods_are_refused_by_name(tmp_path: Path) -> None:
    write_linear(tmp_path, random_weight(), Recipe("gptq"))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"quant_method": "gptq"', '"quant_method": "bitsandbytes"'))
    with pytest.raises(UnsupportedError, match=r"quantised with 'bitsandbytes'.*gptq, awq"):
        WeightReader.of(SafetensorsFolder(tmp_path))


def test_rotations_of_activations_are_refused() -> None:
    def settings(*locations: str) -> dict[str, object]:
        applied = [{"targets": ["Linear"], "location": location} for location in locations]
        return {
            "config_groups": {"group_0": {"weights": {"num_bits": 4}, "format": "pack-quantized"}},
            "transform_config": {"config_groups": {"v": {"type": "hadamard", "apply": applied}}},
        }

    SCHEMES["compressed-tensors"](settings("weight_input", "weight_output"))
    with pytest.raises(UnsupportedError, match=r"activations rotated .*transform_config\.v"):
        SCHEMES["compressed-tensors"](settings("input", "weight_input"))


def test_unpacked_zeros_out_of_range_are_refused(tmp_path: Path) -> None:
    recipe = Recipe("compressed-tensors", ASYMMETRIC, unpacked_zeros=True)
    write_linear(tmp_path, random_weight(), recipe)
    tensors = {name: tensor.clone() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    tensors["linear.weight_zero_point"][5, 1] = 8
    write_tensors(tmp_path, tensors, recipe)
    with pytest.raises(CheckpointError, match=r"weight_zero_point' is -8 to 8.*4-bit integers"):
        weight_of(tmp_path, "linear", (ROWS, COLUMNS))


WIDE = replace(FAMILIES["llama"].tiny, hidden_size=128, intermediate_size=256, head_dim=32)

RECIPES: dict[str, Recipe] = {
    "gptq": Recipe("gptq"),
    "gptq, 2 bits, g64, asymmetric": Recipe("gptq", Settings(2, 64, symmetric=False)),
    "gptq, 3 bits, g128, act-order": Recipe("gptq", Settings(3, 128, act_order=True)),
    "gptq, 3 bits, a row a group, asymmetric": Recipe("gptq", Settings(3, -1, symmetric=False)),
    "gptq, 8 bits, act-order": Recipe("gptq", Settings(8, act_order=True)),
    "gptq, act-order, asymmetric, v2": Recipe("gptq", Settings(4, 32, False, True), version=2),
    "gptq, each its own order": Recipe("gptq", ACT_ORDER, one_order_an_input=False),
    "gptq, bf16 scales": Recipe("gptq", ASYMMETRIC, scale_dtype=torch.bfloat16),
    "gptq, quantize_config.json": Recipe("gptq", ACT_ORDER, settings_in="older"),
    "gptq, overrides": Recipe(
        "gptq",
        ACT_ORDER,
        {
            r".*\.0\.mlp\.gate_proj": Settings(8, 64, act_order=True),
            r".*\.1\.self_attn\.[qk]_proj": Settings(2, 32, act_order=True),
            r".*\.0\.self_attn\.v_proj": None,
            r".*\.1\.mlp\.down_proj": None,
        },
    ),
    "gptq, overrides of order and symmetry": Recipe(
        "gptq", overrides={r".*mlp.*": Settings(4, 32, False, True), r".*\.0\..*o_proj": ASYMMETRIC}
    ),
    "gptq, head too": Recipe("gptq", ACT_ORDER, head=True),
    "gptq, version 2, overrides": Recipe("gptq", ASYMMETRIC, {r".*down_proj": Settings(3)}, version=2),
    "awq": Recipe("awq", ASYMMETRIC),
    "awq, g128, no zero-point": Recipe("awq", Settings(group_size=128)),
    "awq, modules not converted": Recipe(
        "awq", ASYMMETRIC, {r".*down_proj": None, r".*\.0\.self_attn": None}
    ),
    "awq, quant_config.json": Recipe("awq", ASYMMETRIC, settings_in="older"),
    "compressed-tensors, bf16": Recipe("compressed-tensors", scale_dtype=torch.bfloat16),
    "compressed-tensors, 8 bits, channel": Recipe("compressed-tensors", Settings(8, -1)),
    "compressed-tensors, asymmetric": Recipe("compressed-tensors", Settings(4, 128, symmetric=False)),
    "compressed-tensors, unpacked zeros": Recipe("compressed-tensors", ASYMMETRIC, unpacked_zeros=True),
    "compressed-tensors, act-order": Recipe("compressed-tensors", Settings(4, 64, False, True)),
    "compressed-tensors, two groups": Recipe(
        "compressed-tensors",
        ASYMMETRIC,
        {r".*\.[kv]_proj": Settings(8, -1), r".*\.1\.mlp\.up_proj": None},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_models_of_every_variant(name: str, tmp_path: Path, device: Literal["cpu", "cuda"]) -> None:
    recipe = RECIPES[name]
    model = random_model(WIDE, torch.float16)
    values = write_quantised(tmp_path, model, recipe)
    assert has_exact_values(tmp_path, values)
    every = [recipe.settings, *filter(None, recipe.overrides.values())]
    exact = not any(settings.act_order for settings in every)
    assert worst_of_run(tmp_path, model, device, plan_is_exact=exact) <= ALLOWED_UNITS


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llama"])
def test_models_of_every_family(
    family: str,
    method: Literal["gptq", "awq", "compressed-tensors"],
    tmp_path: Path,
    device: Literal["cpu", "cuda"],
) -> None:
    settings = ASYMMETRIC if method == "awq" else Settings(symmetric=False, act_order=True)
    model = random_model(FAMILIES[family].tiny, torch.bfloat16)
    values = write_quantised(tmp_path, model, Recipe(method, settings))
    assert values.keys() == decoder_linears(model).keys()
    assert worst_of_run(tmp_path, model, device, plan_is_exact=not settings.act_order) <= ALLOWED_UNITS


@pytest.mark.parametrize("tool", ["gptqmodel", "autoawq", "llmcompressor"])
def test_models_that_the_tools_quantised(tool: str, device: Literal["cpu", "cuda"]) -> None:
    config = json.loads((FIXTURES / tool / "config.json").read_text())
    config.pop("quantization_config")
    model = LlamaForCausalLM(LlamaConfig(**config))
    values = read_quantised(FIXTURES / tool, model)
    assert len(values) == (6 if tool == "gptqmodel" else 7)
    assert has_exact_values(FIXTURES / tool, values)
    assert worst_of_run(FIXTURES / tool, model, device, plan_is_exact=tool != "gptqmodel") <= ALLOWED_UNITS
