"""Checkpoints in GPTQ, AWQ and compressed-tensors form, of any transformers model, without their tools.

The linears of the decoder layers are rounded to nearest and packed by `quantised_linears`; the rest,
and the names of all tensors, are as transformers writes them. quantization_config is what the tools
write, as far as readers look at it.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy
import torch
from quantised_linears import (
    Integers,
    QuantisedLinear,
    Tensors,
    pack_awq,
    pack_compressed_tensors,
    pack_gptq,
    round_to_nearest,
    unpack_awq,
    unpack_compressed_tensors,
    unpack_gptq,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

# Linears that multiply one input, whose columns are therefore sorted alike.
_SHARED_INPUTS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "attention"),
    **dict.fromkeys(("gate_proj", "up_proj"), "mlp"),
}


@dataclass(frozen=True)
class Settings:
    """How one linear is quantised; `group_size` −1 is one group a row."""

    bits: int = 4
    group_size: int = 32
    symmetric: bool = True
    act_order: bool = False


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is quantised.

    Parameters
    ----------
    overrides : by a regular expression for module names, the first that matches from the start
        counts; None leaves the module as it is.
    version : of GPTQ's zeros.
    one_order_an_input : whether act-order sorts the columns of linears with one input alike, as the
        tools do, or each its own way.
    settings_in : "config" is config.json; "older" is the tool's own file, which early releases of
        AutoGPTQ and AutoAWQ wrote instead, AutoGPTQ beside weights in a file of its own naming.
    unpacked_zeros : see `pack_compressed_tensors`.
    head : whether lm_head is quantised as well.
    """

    method: Literal["gptq", "awq", "compressed-tensors"]
    settings: Settings = Settings()
    overrides: Mapping[str, Settings | None] = field(default_factory=dict)
    version: Literal[1, 2] = 1
    one_order_an_input: bool = True
    scale_dtype: torch.dtype = torch.float16
    settings_in: Literal["config", "older"] = "config"
    unpacked_zeros: bool = False
    head: bool = False

    def of(self, module: str) -> Settings | None:
        for pattern, settings in self.overrides.items():
            if re.match(pattern, module):
                return settings
        return self.settings


def write_quantised(folder: Path, model: PreTrainedModel, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Write `model` as `recipe` says and leave the dequantised values, fp32, in it.

    Returns them by the module's name.
    """
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    written = {}
    head = {"lm_head": model.get_output_embeddings()} if recipe.head else {}
    for name, linear in (decoder_linears(model) | head).items():
        settings = recipe.of(name)
        if settings is None:
            continue
        quantised = _quantise(name, linear.weight, settings, recipe)
        written[name] = linear.weight.data = quantised.dequantised()
        del tensors[f"{name}.weight"]
        tensors |= {f"{name}.{key}": value for key, value in _pack(quantised, settings, recipe).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_settings(folder, recipe)
    return written


def read_quantised(folder: Path, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Fill `model` with a checkpoint that a tool wrote; returns the dequantised values as above."""
    tensors = load_file(folder / "model.safetensors")
    read = {}
    for name, linear in decoder_linears(model).items():
        own = {key.removeprefix(f"{name}."): tensors[key] for key in tensors if key.startswith(f"{name}.")}
        if "weight" in own:
            continue
        if "weight_packed" in own:
            quantised = unpack_compressed_tensors(own)
        else:
            quantised = unpack_gptq(own) if "g_idx" in own else unpack_awq(own)
        read[name] = linear.weight.data = quantised.dequantised()
    for name, parameter in model.named_parameters():
        if name in tensors:
            parameter.data = tensors[name]
        else:
            assert name.removesuffix(".weight") in read
    return read


def write_linear(folder: Path, weight: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Write a checkpoint of one quantised linear, named "linear"; returns the dequantised values."""
    quantised = _quantise("linear", weight, recipe.settings, recipe)
    packed = _pack(quantised, recipe.settings, recipe)
    write_tensors(folder, {f"linear.{name}": value for name, value in packed.items()}, recipe)
    return quantised.dequantised()


def write_tensors(folder: Path, tensors: Tensors, recipe: Recipe) -> None:
    """A checkpoint of some tensors only, which no model can be built of."""
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_settings(folder, recipe)


def decoder_linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    }


def group_order(columns: int, settings: Settings, seed: str) -> Integers:
    """The group of each input: neighbours, or with act-order any, `group_size` to each group."""
    size = columns if settings.group_size == -1 else settings.group_size
    assert columns % size == 0
    groups = numpy.arange(columns) // size
    return (
        numpy.random.default_rng(zlib.crc32(seed.encode())).permutation(groups)
        if settings.act_order
        else groups
    )


def _quantise(name: str, weight: torch.Tensor, settings: Settings, recipe: Recipe) -> QuantisedLinear:
    layer, _, module = name.rpartition(".")
    seed = f"{layer.rpartition('.')[0]}.{_SHARED_INPUTS.get(module, module)}"
    order = group_order(weight.shape[1], settings, seed if recipe.one_order_an_input else name)
    lowest = 1 if recipe.method == "gptq" and recipe.version == 1 else 0
    return round_to_nearest(
        weight,
        settings.bits,
        order,
        symmetric=settings.symmetric,
        zeros=(lowest, lowest + (1 << settings.bits) - 1),
        scale_dtype=recipe.scale_dtype,
    )


def _pack(quantised: QuantisedLinear, settings: Settings, recipe: Recipe) -> Tensors:
    if recipe.method == "gptq":
        return pack_gptq(quantised, recipe.version)
    if recipe.method == "awq":
        return pack_awq(quantised)
    return pack_compressed_tensors(
        quantised,
        symmetric=settings.symmetric,
        act_order=settings.act_order,
        unpacked_zeros=recipe.unpacked_zeros,
    )


def _write_settings(folder: Path, recipe: Recipe) -> None:
    write = {"gptq": _gptq_settings, "awq": _awq_settings, "compressed-tensors": _compressed_tensors_settings}
    settings = write[recipe.method](recipe)
    if recipe.settings_in == "older":
        file = "quantize_config.json" if recipe.method == "gptq" else "quant_config.json"
        (folder / file).write_text(json.dumps(settings))
        if recipe.method == "gptq":
            weights = f"gptq_model-{recipe.settings.bits}bit-{recipe.settings.group_size}g.safetensors"
            (folder / "model.safetensors").rename(folder / weights)
        return
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": settings | {"quant_method": recipe.method}}))


def _gptq_settings(recipe: Recipe) -> dict[str, object]:
    base = recipe.settings
    settings: dict[str, object] = {
        "bits": base.bits,
        "group_size": base.group_size,
        "desc_act": base.act_order,
        "sym": base.symmetric,
    }
    if recipe.settings_in == "older":
        more = {"damp_percent": 0.01, "static_groups": False, "true_sequential": True}
        return settings | more | {"model_name_or_path": None, "model_file_base_name": None}
    names = {"bits": "bits", "group_size": "group_size", "act_order": "desc_act", "symmetric": "sym"}
    dynamic: dict[str, object] = {}
    for pattern, override in recipe.overrides.items():
        changed = {} if override is None else {n: getattr(override, f) for f, n in names.items()}
        differs = {name: value for name, value in changed.items() if value != settings[name]}
        dynamic[f"{'-' if override is None else '+'}:{pattern}"] = differs
    settings |= {"lm_head": recipe.head, "pack_dtype": "int32", "meta": {"damp_percent": 0.05}}
    settings["checkpoint_format"] = "gptq" if recipe.version == 1 else "gptq_v2"
    return settings | ({"dynamic": dynamic} if dynamic else {})


def _awq_settings(recipe: Recipe) -> dict[str, object]:
    base, kept = recipe.settings, list(recipe.overrides)
    assert set(recipe.overrides.values()) <= {None}
    if recipe.settings_in == "older":
        return {"zero_point": True, "q_group_size": base.group_size, "w_bit": 4, "version": "GEMM"}
    return {
        "bits": 4,
        "group_size": base.group_size,
        "modules_to_not_convert": [pattern.removeprefix(".*") for pattern in kept] or None,
        "version": "gemm",
        "zero_point": not base.symmetric,
    }


def _compressed_tensors_settings(recipe: Recipe) -> dict[str, object]:
    groups = [([f"re:{pattern}"], item) for pattern, item in recipe.overrides.items() if item is not None]
    kept = [f"re:{pattern}" for pattern, item in recipe.overrides.items() if item is None]
    return {
        "config_groups": {
            f"group_{index}": {
                "targets": targets,
                "weights": {
                    "num_bits": item.bits,
                    "type": "int",
                    "symmetric": item.symmetric,
                    "strategy": "channel" if item.group_size == -1 else "group",
                    "group_size": None if item.group_size == -1 else item.group_size,
                    "actorder": "group" if item.act_order else None,
                    "dynamic": False,
                    "observer": "minmax",
                },
                "input_activations": None,
                "output_activations": None,
            }
            for index, (targets, item) in enumerate([*groups, (["Linear"], recipe.settings)])
        },
        "format": "pack-quantized",
        "ignore": ["lm_head", *kept],
        "kv_cache_scheme": None,
        "quantization_status": "compressed",
    }
