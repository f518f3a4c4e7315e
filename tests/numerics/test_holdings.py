"""Resident bytes that a checkpoint's directory tells are what loading its weights takes, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from native_libraries import NEEDS_LIBRARY
from quantised_checkpoints import Recipe, Settings, write_quantised
from safetensors.torch import load_file, save_file
from tiny_checkpoints import random_model, write_gguf

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import CheckpointError, PascalineError
from pascaline.core.progress import ignore_progress
from pascaline.engine.loader import find_weights, load_weights, settle_tying
from pascaline.formats import FORMATS, LINEAR_READERS
from pascaline.kernels import KERNELS, OPS, Chip, Launcher, Policy
from pascaline.kernels.policy import Arithmetic
from pascaline.layers.decoder import Decoder, build
from pascaline.models import FAMILIES, read_config
from pascaline.weights import Packed, Weight
from pascaline.weights.slab_layout import slabbed_form, to_slabs
from pascaline.workload.holdings import HeldWeight, Layout, held_weights, resident_bytes, settled_tying
from pascaline.workload.schemes import SCHEMES
from pascaline.workload.step import StepShape, launches
from pascaline.workload.weight_form import TENSOR_FORMS

TINY = {name: family.tiny for name, family in FAMILIES.items()}
LLAMA = TINY["llama"]
# Wide enough for the blocks of every type.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
ODD = {"vocab_size": 97, "intermediate_size": 80}


@dataclass(frozen=True)
class Case:
    """A model and how its file stores it: as transformers does unless a GGUF type or a recipe is given."""

    name: str
    config: ModelConfig
    type_name: str | None = None
    recipe: Recipe | None = None
    dtype: torch.dtype = torch.float32
    others: tuple[tuple[str, str], ...] = ()

    def write(self, folder: Path) -> Path:
        model = random_model(self.config, self.dtype)
        if self.recipe is not None:
            write_quantised(folder, model, self.recipe)
            return folder
        if self.type_name is not None:
            write_gguf(folder / "model.gguf", model, self.type_name, others=dict(self.others))
            return folder / "model.gguf"
        model.save_pretrained(folder)
        return folder


def gptq(name: str, recipe: Recipe, family: str = "llama") -> Case:
    return Case(name, TINY[family], recipe=recipe, dtype=torch.float16)


CASES = [
    *(Case(family, config) for family, config in TINY.items()),
    *(
        Case(f"{family}, bf16, odd sizes", replace(config, **ODD), dtype=torch.bfloat16)
        for family, config in TINY.items()
    ),
    Case("llama, biases", replace(LLAMA, attention_bias=True, mlp_bias=True), dtype=torch.float16),
    Case("llama, tied", replace(LLAMA, tie_word_embeddings=True)),
    *(Case(f"llama, {name}", replace(LLAMA, **WIDE), name) for name in FORMATS),
    *(Case(f"{family}, Q4_K", replace(config, **WIDE), "Q4_K") for family, config in TINY.items()),
    Case("llama, Q4_0, narrow and odd", replace(LLAMA, **(ODD | {"intermediate_size": 96})), "Q4_0"),
    Case(
        "qwen2, Q4_K with others",
        replace(TINY["qwen2"], **WIDE),
        "Q4_K",
        others=(("v_proj", "Q6_K"), ("down_proj", "Q6_K"), ("embed_tokens", "Q8_0")),
    ),
    *(gptq(f"gptq, {bits} bits", Recipe("gptq", Settings(bits, 32))) for bits in (2, 3, 4, 8)),
    *(
        gptq(f"gptq, {bits} bits, zeros", Recipe("gptq", Settings(bits, 16, symmetric=False)))
        for bits in (2, 3, 4, 8)
    ),
    gptq("gptq, one group", Recipe("gptq", Settings(4, -1))),
    gptq("gptq, groups that are no whole runs", Recipe("gptq", Settings(4, 8, symmetric=False))),
    gptq("gptq, act-order", Recipe("gptq", Settings(4, 16, act_order=True))),
    gptq("gptq, act-order, zeros", Recipe("gptq", Settings(3, 16, symmetric=False, act_order=True))),
    gptq("gptq, act-order, one group", Recipe("gptq", Settings(4, -1, act_order=True))),
    gptq("gptq v2, fp32 scales", Recipe("gptq", version=2, scale_dtype=torch.float32)),
    gptq(
        "gptq, overrides",
        Recipe(
            "gptq",
            overrides={
                r".*k_proj": Settings(8),
                r".*down_proj": None,
                r".*o_proj": Settings(4, 64, symmetric=False),
            },
        ),
    ),
    gptq("gptq, quantised head", Recipe("gptq", head=True)),
    gptq("gptq, phi3", Recipe("gptq", Settings(4, 32)), "phi3"),
    gptq("gptq, gemma3", Recipe("gptq", Settings(4, 32, act_order=True)), "gemma3"),
    gptq("awq", Recipe("awq", Settings(symmetric=False))),
    gptq("awq, qwen2", Recipe("awq", Settings(group_size=16, symmetric=False)), "qwen2"),
    gptq("awq, modules kept", Recipe("awq", Settings(symmetric=False), {r".*v_proj": None})),
    *(
        gptq(
            f"compressed-tensors, {bits} bits, {symmetric}",
            Recipe("compressed-tensors", Settings(bits, 32, symmetric=symmetric)),
        )
        for bits in (4, 8)
        for symmetric in (True, False)
    ),
    gptq("compressed-tensors, act-order", Recipe("compressed-tensors", Settings(act_order=True))),
    gptq("compressed-tensors, channels", Recipe("compressed-tensors", Settings(8, -1))),
    gptq(
        "compressed-tensors, bytes of zeros",
        Recipe("compressed-tensors", Settings(symmetric=False), unpacked_zeros=True),
    ),
]


class WithoutData:
    """A checkpoint of which nothing but the directory can be had."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        for name in ("container", "path", "hf_config", "tensors"):
            setattr(self, name, getattr(checkpoint, name))


def told(checkpoint: Checkpoint) -> tuple[ModelConfig, list[HeldWeight]]:
    directory: Checkpoint = WithoutData(checkpoint)  # type: ignore[assignment]  # lacks `read`: that is the test
    config = settled_tying(read_config(directory.hf_config, directory.container), directory)
    return config, held_weights(directory, config)


def in_slabs(weight: Weight) -> Weight:
    """As CUDA kernels hold it, on any device."""
    held = isinstance(weight, Packed) and not isinstance(slabbed_form(weight), str)
    return to_slabs(weight) if held and isinstance(weight, Packed) else weight


def loaded(
    checkpoint: Checkpoint, arithmetic: Arithmetic, prepare: Callable[[Weight], Weight] | None = None
) -> Decoder:
    launcher = Launcher(Policy(Chip(torch.device("cpu")), KERNELS, arithmetic))
    config = settle_tying(read_config(checkpoint.hf_config, checkpoint.container), checkpoint)
    model = build(config, launcher)
    prepare = prepare or launcher.kernel_of(OPS["linear"]).prepare
    device = torch.device("cpu")
    load_weights(model, checkpoint, find_weights(model, checkpoint), device, prepare, ignore_progress)
    return model


def agree(path: Path, arithmetic: Arithmetic, layout: Layout) -> None:
    checkpoint = open_checkpoint(path)
    try:
        _, held = told(checkpoint)
        prepare = in_slabs if layout == "slabbed" else None
        assert resident_bytes(held, layout) == loaded(checkpoint, arithmetic, prepare).resident_bytes()
    finally:
        checkpoint.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_packed_bytes_are_those_of_loaded_weights(case: Case, tmp_path: Path) -> None:
    agree(case.write(tmp_path), "fp32", "packed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_slabbed_bytes_are_those_of_loaded_weights(case: Case, tmp_path: Path) -> None:
    agree(case.write(tmp_path), "fp32", "slabbed")


@NEEDS_LIBRARY
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tiled_bytes_are_those_of_loaded_weights(case: Case, tmp_path: Path) -> None:
    agree(case.write(tmp_path), "auto", "tiled")


@NEEDS_LIBRARY
def test_bytes_of_the_demo(demo_path: Path) -> None:
    agree(demo_path, "auto", "tiled")
    agree(demo_path, "fp32", "packed")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_holdings_are_the_loaders_in_order(case: Case, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(case.write(tmp_path))
    config, held = told(checkpoint)
    model = build(config, Launcher(Policy(Chip(torch.device("cpu")), KERNELS)))
    assert held == [item for found in find_weights(model, checkpoint) for item in found.held()]
    checkpoint.close()


def test_linears_of_differently_packed_parts_are_several_launches(tmp_path: Path) -> None:
    case = Case("", replace(LLAMA, **WIDE), "Q4_K", others=(("v_proj", "Q6_K"),))
    checkpoint = open_checkpoint(case.write(tmp_path))
    config, held = told(checkpoint)
    step = launches(config, StepShape((3,), (3,), 1), held=held)
    of_layer = [launch for launch in step if launch.module == "model.layers.0.self_attn.qkv_proj"]
    prefix = "model.layers.0.self_attn"
    assert [launch.weights for launch in of_layer] == [
        (f"{prefix}.q_proj.weight", f"{prefix}.k_proj.weight"),
        (f"{prefix}.v_proj.weight",),
    ]
    assert [dict(launch.axes)["N"] for launch in of_layer] == [256 + 128, 128]
    assert [launch.weight_bytes for launch in of_layer] == [384 * 144, 128 * 210]
    assert step[0].weight_bytes == 3 * 144
    checkpoint.close()


def removed(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def added(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors") | {name: torch.ones(3, 3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: removed(folder, "model.layers.1.mlp.down_proj.qweight"),
        lambda folder: removed(folder, "model.layers.0.self_attn.k_proj.scales"),
        lambda folder: removed(folder, "model.norm.weight"),
        lambda folder: added(folder, "model.layers.1.mlp.router.weight"),
    ],
)
def test_the_loaders_errors_come_without_data(damage: Callable[[Path], None], tmp_path: Path) -> None:
    gptq("", Recipe("gptq")).write(tmp_path)
    damage(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError) as of_directory:
        told(checkpoint)
    config = read_config(checkpoint.hf_config, checkpoint.container)
    model = build(config, Launcher(Policy(Chip(torch.device("cpu")), KERNELS)))
    with pytest.raises(PascalineError) as of_loader:
        find_weights(model, checkpoint)
    assert str(of_directory.value) == str(of_loader.value)
    checkpoint.close()


def test_every_form_has_its_reader() -> None:
    assert set(TENSOR_FORMS) == set(FORMATS)
    assert list(SCHEMES) == list(LINEAR_READERS)
