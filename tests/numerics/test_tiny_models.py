"""Tiny random models against transformers: every family, container, element type and option.

The checkpoints are written by transformers and by the gguf package (`tiny_checkpoints`); what is
compared are the logits of all positions, and how close they must be is derived in
`transformers_reference`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy
import pytest
import torch
from stepped_model import Part, SteppedModel
from tiny_checkpoints import random_model, rows_in_gguf_order, write_gguf
from transformers import PreTrainedModel
from transformers_reference import ALLOWED_UNITS, Reference, reference, units_away

from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import CheckpointError
from pascaline.models import FAMILIES

LLAMA, QWEN2 = FAMILIES["llama"].tiny, FAMILIES["qwen2"].tiny

LINEAR = RopeScaling("linear", 3.0)
# The trained context is 64 tokens and the prompts are longer; of the eight frequencies at least one
# lies on either side of each rule's ramp, and at least one on it.
LLAMA3 = RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = RopeScaling("yarn", 4.0, 64)
YARN_SET = RopeScaling("yarn", 4.0, 64, attention_factor=0.8, beta_fast=8.0, beta_slow=0.5)


@dataclass(frozen=True)
class SafetensorsCase:
    name: str
    config: ModelConfig
    dtype: torch.dtype = torch.float32
    save: dict[str, object] = field(default_factory=dict)


SAFETENSORS_CASES = [
    SafetensorsCase("llama", LLAMA),
    SafetensorsCase("llama, fp16, tied", replace(LLAMA, tie_word_embeddings=True), torch.float16),
    SafetensorsCase(
        "llama, bf16, biases", replace(LLAMA, attention_bias=True, mlp_bias=True), torch.bfloat16
    ),
    SafetensorsCase("llama, shards", LLAMA, torch.bfloat16, {"max_shard_size": "20KB"}),
    SafetensorsCase("llama, as many KV heads", replace(LLAMA, num_key_value_heads=4)),
    SafetensorsCase("llama, one KV head", replace(LLAMA, num_key_value_heads=1)),
    SafetensorsCase("llama, heads wider than the model", replace(LLAMA, head_dim=24)),
    SafetensorsCase("llama, linear rope", replace(LLAMA, rope_scaling=LINEAR)),
    SafetensorsCase("llama, llama3 rope", replace(LLAMA, rope_scaling=LLAMA3)),
    SafetensorsCase("llama, yarn", replace(LLAMA, rope_scaling=YARN)),
    SafetensorsCase("llama, yarn with all settings", replace(LLAMA, rope_scaling=YARN_SET)),
    SafetensorsCase("qwen2, tied", QWEN2),
    SafetensorsCase("qwen2, bf16, untied", replace(QWEN2, tie_word_embeddings=False), torch.bfloat16),
    SafetensorsCase("qwen2, yarn", replace(QWEN2, rope_scaling=YARN)),
]


def tokens(count: int, vocab_size: int) -> list[int]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, vocab_size, (count,), generator=generator).tolist()


def worst_of_run(path: Path, model: PreTrainedModel, device: Literal["cpu", "cuda"] = "cpu") -> float:
    """Largest distance, in units, over a prefill alone and three unequal prompts decoded together."""
    prompts = [tokens(count, model.config.vocab_size) for count in (90, 23, 5)]
    references = [reference(model, prompt) for prompt in prompts]
    stepped = SteppedModel(path, pages=32, device=device)
    config, ready = stepped.started.model_config, stepped.started.ready
    assert config.max_position_embeddings == ready.max_model_len == 256
    assert ready.weights_bytes == stepped.started.plan.weights_bytes
    worst = 0.0

    def compare(logits: torch.Tensor, expected: Reference, start: int) -> None:
        nonlocal worst
        exact = expected.exact[start : start + len(logits)]
        worst = max(worst, units_away(logits, exact, expected.unit))

    alone = stepped.step(Part(prompts[0], stepped.pages_for(90)))
    compare(alone[0], references[0], 0)

    pages = [stepped.pages_for(len(prompt)) for prompt in prompts]
    # The longest in two chunks, the second of them beside the others' prompts; then all decode.
    first = stepped.step(Part(prompts[0][:40], pages[0]))
    compare(first[0], references[0], 0)
    starts = [40, 0, 0]
    for stops in ([87, 20, 2], [88, 21, 3], [89, 22, 4], [90, 23, 5]):
        parts = [
            Part(prompt[start:stop], held, start)
            for prompt, held, start, stop in zip(prompts, pages, starts, stops, strict=True)
        ]
        for logits, expected, start in zip(stepped.step(*parts), references, starts, strict=True):
            compare(logits, expected, start)
        starts = stops
    return worst


@pytest.mark.parametrize("case", SAFETENSORS_CASES, ids=lambda case: case.name)
def test_safetensors_written_by_transformers(
    case: SafetensorsCase, tmp_path: Path, device: Literal["cpu", "cuda"]
) -> None:
    model = random_model(case.config, case.dtype)
    model.save_pretrained(tmp_path, **case.save)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("shards" in case.name)
    assert worst_of_run(tmp_path, model, device) <= ALLOWED_UNITS


GGUF_TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"]


@pytest.mark.parametrize("type_name", GGUF_TYPES)
@pytest.mark.parametrize("family", [LLAMA, QWEN2], ids=lambda family: family.model_type)
def test_gguf_of_every_type(
    family: ModelConfig, type_name: str, tmp_path: Path, device: Literal["cpu", "cuda"]
) -> None:
    model = random_model(family)
    write_gguf(tmp_path / "model.gguf", model, type_name)
    assert worst_of_run(tmp_path / "model.gguf", model, device) <= ALLOWED_UNITS


@pytest.mark.parametrize(
    "config",
    [
        replace(LLAMA, tie_word_embeddings=True, num_key_value_heads=4),
        replace(LLAMA, attention_bias=True, mlp_bias=True, head_dim=24),
        replace(QWEN2, tie_word_embeddings=False, num_key_value_heads=1),
    ],
    ids=["llama, tied, as many KV heads", "llama, biases, wide heads", "qwen2, untied, one KV head"],
)
def test_gguf_variants(config: ModelConfig, tmp_path: Path, device: Literal["cpu", "cuda"]) -> None:
    model = random_model(config)
    write_gguf(tmp_path / "model.gguf", model, "Q8_0")
    assert worst_of_run(tmp_path / "model.gguf", model, device) <= ALLOWED_UNITS


@pytest.mark.parametrize(
    ("scaling", "metadata"),
    [
        (LINEAR, {"rope.scaling.type": "linear", "rope.scaling.factor": 3.0}),
        (
            YARN,
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 64,
            },
        ),
    ],
    ids=["linear", "yarn"],
)
def test_gguf_rope_scaling_keys(scaling: RopeScaling, metadata: dict[str, object], tmp_path: Path) -> None:
    model = random_model(replace(LLAMA, rope_scaling=scaling))
    write_gguf(tmp_path / "model.gguf", model, "F16", metadata=metadata)
    assert worst_of_run(tmp_path / "model.gguf", model) <= ALLOWED_UNITS


def test_gguf_rope_factors_divide_the_frequencies(tmp_path: Path) -> None:
    factors = numpy.linspace(1.0, 8.0, LLAMA.head_dim // 2, dtype=numpy.float32)
    model = random_model(LLAMA)
    write_gguf(tmp_path / "model.gguf", model, "F32", rope_factors=factors)
    assert worst_of_run(tmp_path / "model.gguf", model) > 100 * ALLOWED_UNITS, "the factors do matter"
    model.model.rotary_emb.inv_freq /= torch.from_numpy(factors)
    assert worst_of_run(tmp_path / "model.gguf", model) <= ALLOWED_UNITS


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_rope_factors_are_refused(bad: float, tmp_path: Path) -> None:
    factors = numpy.full(LLAMA.head_dim // 2, 2.0, numpy.float32)
    factors[3] = bad
    write_gguf(tmp_path / "model.gguf", random_model(LLAMA), "F32", rope_factors=factors)
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight.*divisors of the rotary frequencies"):
        SteppedModel(tmp_path / "model.gguf", pages=32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 3}, r"has no tensor 'model\.layers\.2\..* complete layers of 'llama'"),
        ({"intermediate_size": 100}, r"gate_proj\.weight' has shape \[96, 64\] \(expected \[100, 64\]"),
        ({"attention_bias": True}, r"has no tensor 'model\.layers\.0\.self_attn\.q_proj\.bias'"),
    ],
)
def test_a_config_that_the_tensors_contradict_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    random_model(LLAMA).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        SteppedModel(tmp_path, pages=32)


def test_wrong_rows_are_far_outside_of_the_tolerance(tmp_path: Path) -> None:
    """That the comparison can fail: q and k of llama in the wrong order, as one swapped pair of rows."""
    model = random_model(LLAMA)
    write_gguf(tmp_path / "model.gguf", model, "F32")
    query = model.model.layers[1].self_attn.q_proj.weight
    with torch.no_grad():
        query[[0, 1]] = query[[1, 0]]
    assert worst_of_run(tmp_path / "model.gguf", model) > 100 * ALLOWED_UNITS
    assert rows_in_gguf_order(numpy.arange(12)[:, None], 2)[:, 0].tolist() == [
        *(0, 3, 1, 4, 2, 5),
        *(6, 9, 7, 10, 8, 11),
    ]
