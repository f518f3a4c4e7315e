"""Recorded steps of the native library: what a step gives does not depend on how it is run.

A recording is replayed with fewer tokens than it was made for, its launches are fused and share
memory; the same kernels launched one by one, on memory of their own, must give the same bits. So must
a sequence alone, among others, and in chunks. That the numbers are right is shown in fp32 against
transformers, for all families, and by each kernel's own tests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from native_libraries import NEEDS_LIBRARY
from quantised_checkpoints import Recipe, Settings, write_quantised
from stepped_model import Part, SteppedModel
from test_tiny_models import TINY, tokens, worst_of_run
from tiny_checkpoints import random_model, write_gguf
from transformers_reference import ALLOWED_UNITS

from pascaline.core.errors import UnsupportedError
from pascaline.engine.runner import EagerRunner, RecordedRunner
from pascaline.kernels import KERNELS, OPS, Chip, Launcher, Policy
from pascaline.kernels.cpu.fusion import fuse
from pascaline.layers.module import Layer
from pascaline.weights import Dense, Tiled

pytestmark = NEEDS_LIBRARY

LLAMA = TINY["llama"]


@dataclass(frozen=True)
class Case:
    """A model and how its file stores it: a GGUF type, a recipe, or in fp32 where neither is given."""

    name: str
    family: str
    type_name: str | None = None
    recipe: Recipe | None = None

    def write(self, folder: Path) -> Path:
        # Wide enough for the blocks of every type.
        config = TINY[self.family]
        if self.type_name is not None:
            config = replace(config, hidden_size=256, intermediate_size=256, head_dim=64)
        model = random_model(config)
        if self.recipe is not None:
            write_quantised(folder, model, self.recipe)
            return folder
        if self.type_name is not None:
            write_gguf(folder / "model.gguf", model, self.type_name)
            return folder / "model.gguf"
        model.save_pretrained(folder)
        return folder


CASES = [
    *(Case(f"{family}, fp32", family) for family in TINY),
    *(Case(f"llama, {name}", "llama", name) for name in ("Q4_0", "Q4_K", "Q6_K", "IQ4_XS", "BF16")),
    Case("qwen2, Q4_1", "qwen2", "Q4_1"),
    Case("gemma2, Q8_0", "gemma2", "Q8_0"),
    Case("llama, GPTQ", "llama", recipe=Recipe("gptq", Settings(4, 16, symmetric=False, act_order=True))),
    Case("qwen3, AWQ", "qwen3", recipe=Recipe("awq", Settings(4, 32, symmetric=False))),
]


@pytest.mark.parametrize("family", TINY)
def test_dense_models_are_as_exact_as_in_torch(family: str, tmp_path: Path) -> None:
    model = random_model(TINY[family])
    model.save_pretrained(tmp_path)
    assert worst_of_run(tmp_path, model, arithmetic="auto") <= ALLOWED_UNITS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bits_depend_on_nothing_beside_a_sequence(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    stepped = SteppedModel(path, pages=64, arithmetic="auto")
    assert isinstance(stepped.started.runner, RecordedRunner)
    vocab_size = stepped.started.model_config.vocab_size
    prompts = [tokens(count, vocab_size) for count in (90, 23, 5)]
    alone = [stepped.step(Part(prompt, stepped.pages_for(len(prompt))))[0] for prompt in prompts]

    pages = [stepped.pages_for(len(prompt)) for prompt in prompts]
    first = stepped.step(Part(prompts[0][:40], pages[0]))
    assert torch.equal(first[0], alone[0][:40])
    starts = [40, 0, 0]
    for stops in ([87, 20, 2], [88, 21, 3], [89, 22, 4], [90, 23, 5]):
        parts = [
            Part(prompt[start:stop], held, start)
            for prompt, held, start, stop in zip(prompts, pages, starts, stops, strict=True)
        ]
        for logits, whole, start, stop in zip(stepped.step(*parts), alone, starts, stops, strict=True):
            assert torch.equal(logits, whole[start:stop])
        starts = stops


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_replay_gives_the_bits_of_single_launches(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    stepped = SteppedModel(path, pages=64, arithmetic="auto")
    recorded = stepped.started.runner
    assert isinstance(recorded, RecordedRunner)
    vocab_size = stepped.started.model_config.vocab_size
    parts = [Part(tokens(count, vocab_size), stepped.pages_for(count)) for count in (33, 1, 70)]
    replayed = stepped.step(*parts)
    object.__setattr__(
        stepped.started, "runner", EagerRunner(recorded.model, recorded.cache, torch.device("cpu"))
    )
    for one, other in zip(stepped.step(*parts), replayed, strict=True):
        assert torch.equal(one, other)


def test_weights_are_in_memory_once(demo_path: Path) -> None:
    """As tiles; what they were made of is gone, and they take what was planned."""
    stepped = SteppedModel(demo_path, pages=64, arithmetic="auto")
    runner = stepped.started.runner
    assert isinstance(runner, RecordedRunner)
    layers = [module for module in runner.model.modules() if isinstance(module, Layer)]
    weights = [weight for layer in layers for weight in layer.weights() if not isinstance(weight, Dense)]
    assert weights
    assert all(isinstance(weight, Tiled) for weight in weights)
    assert runner.model.resident_bytes() == stepped.started.plan.weights_bytes


def test_launches_are_fused_and_named(demo_path: Path) -> None:
    runner = SteppedModel(demo_path, pages=64, arithmetic="auto").started.runner
    assert isinstance(runner, RecordedRunner)
    of_layer = [name for name in runner.program.names if name.path.startswith("model.layers.3.")]
    linears = [name for name in of_layer if "linear" in name.ops]
    assert [(name.path.removeprefix("model.layers.3."), name.ops) for name in linears] == [
        ("self_attn.qkv_proj", ("rms_norm", "linear")),
        ("self_attn.o_proj", ("linear", "add")),
        ("mlp.gate_up_proj", ("rms_norm", "linear")),
        ("mlp.down_proj", ("silu_and_mul", "linear", "add")),
    ]
    others = [op for name in of_layer if name not in linears for op in name.ops]
    assert others == ["rotary", "rotary", "store_rows", "store_rows", "paged_attention"]


def test_a_second_sum_stays_a_launch() -> None:
    launcher = Launcher(Policy(Chip(torch.device("cpu")), KERNELS))
    weight = Dense(torch.randn(8, 4))
    with launcher.recording() as recorder:
        x = launcher(OPS["add"], "", torch.zeros(3, 4), torch.zeros(3, 4))
        y = launcher(OPS["linear"], "", x, weight, None)
        y = launcher(OPS["add"], "", y, torch.zeros(3, 8))
        launcher(OPS["add"], "", y, torch.zeros(3, 8))
    assert [item.names for item in fuse(recorder.launches)] == [("add",), ("linear", "add"), ("add",)]


def test_what_is_no_launch_cannot_be_recorded() -> None:
    launcher = Launcher(Policy(Chip(torch.device("cpu")), KERNELS))
    with launcher.recording():
        x = launcher(OPS["add"], "a", torch.zeros(3, 4), torch.zeros(3, 4))
        assert x.is_meta
        with pytest.raises(UnsupportedError, match="b: an operand of add is no output of a launch"):
            launcher(OPS["add"], "b", x * 2, x)
    assert not launcher(OPS["add"], "a", torch.zeros(3, 4), torch.zeros(3, 4)).is_meta
