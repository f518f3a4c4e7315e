"""Tiny random models against transformers: every family, container, element type and option.

The checkpoints are written by transformers and by the gguf package (`tiny_checkpoints`); what is
compared are the logits of all positions, and how close they must be is derived in
`transformers_reference`.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy
import pytest
import torch
from safetensors.torch import save_file
from stepped_model import Part, SteppedModel
from tiny_checkpoints import fill_randomly, hf_config, random_model, rows_in_gguf_order, write_gguf
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
)
from transformers_reference import ALLOWED_UNITS, Reference, reference, units_away

from pascaline.checkpoint.model_config import ModelConfig, RopeScaling
from pascaline.core.errors import CheckpointError
from pascaline.kernels.policy import Arithmetic
from pascaline.models import FAMILIES, read_config

TINY = {name: family.tiny for name, family in FAMILIES.items()}
LLAMA, QWEN2, QWEN3, MISTRAL, PHI3, GEMMA2, GEMMA3 = TINY.values()

LINEAR = RopeScaling("linear", 3.0)
# The trained context is 64 tokens and the prompts are longer; of the eight frequencies at least one
# lies on either side of each rule's ramp, and at least one on it.
LLAMA3 = RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = RopeScaling("yarn", 4.0, 64)
FULL, SLIDING = "full_attention", "sliding_attention"
YARN_SET = RopeScaling("yarn", 4.0, 64, attention_factor=0.8, beta_fast=8.0, beta_slow=0.5)


@dataclass(frozen=True)
class SafetensorsCase:
    name: str
    config: ModelConfig
    dtype: torch.dtype = torch.float32
    save: dict[str, object] = field(default_factory=dict)


DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

SAFETENSORS_CASES = [
    *(
        SafetensorsCase(f"{name}, {dtype}", config, DTYPES[dtype])
        for name, config in TINY.items()
        for dtype in DTYPES
    ),
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
    SafetensorsCase("qwen2, bf16, untied", replace(QWEN2, tie_word_embeddings=False), torch.bfloat16),
    SafetensorsCase("qwen2, yarn", replace(QWEN2, rope_scaling=YARN)),
    SafetensorsCase("qwen2, window", replace(QWEN2, sliding_window=19, layer_types=(FULL, SLIDING))),
    SafetensorsCase("qwen3, biases", replace(QWEN3, attention_bias=True, tie_word_embeddings=False)),
    SafetensorsCase("qwen3, window", replace(QWEN3, sliding_window=19, layer_types=(FULL, SLIDING))),
    # A page has 16 tokens, the prompts 90, 23 and 5.
    *(
        SafetensorsCase(f"mistral, window of {window}", replace(MISTRAL, sliding_window=window))
        for window in (1, 16, 33, 90, 300)
    ),
    SafetensorsCase("mistral, no window", replace(MISTRAL, sliding_window=None, layer_types=())),
    SafetensorsCase("phi3, no window", replace(PHI3, sliding_window=None, layer_types=())),
    SafetensorsCase(
        "phi3, whole heads, tied", replace(PHI3, partial_rotary_factor=1.0, tie_word_embeddings=True)
    ),
    SafetensorsCase("gemma2, query scale", replace(GEMMA2, query_pre_attn_scalar=5.0, attention_bias=True)),
    SafetensorsCase(
        "gemma2, no caps", replace(GEMMA2, attn_logit_softcapping=None, final_logit_softcapping=None)
    ),
    SafetensorsCase("gemma3, linear rope", replace(GEMMA3, rope_scaling=LINEAR)),
    SafetensorsCase("gemma3, final cap", replace(GEMMA3, final_logit_softcapping=5.0)),
]


def tokens(count: int, vocab_size: int) -> list[int]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, vocab_size, (count,), generator=generator).tolist()


def worst_of_run(
    path: Path,
    model: PreTrainedModel,
    device: Literal["cpu", "cuda"] = "cpu",
    *,
    max_model_len: int = 256,
    plan_is_exact: bool = True,
    arithmetic: Arithmetic = "fp32",
) -> float:
    """Largest distance, in units, over a prefill alone and three unequal prompts decoded together.

    `plan_is_exact`: false where weights with equal orders of columns may come to share them.
    """
    prompts = [tokens(count, model.config.get_text_config().vocab_size) for count in (90, 23, 5)]
    references = [reference(model, prompt) for prompt in prompts]
    stepped = SteppedModel(
        path,
        pages=32,
        device=device,
        max_model_len=max_model_len,
        arithmetic=arithmetic,
        key_value_dtype="fp32",
    )
    config, ready = stepped.started.model_config, stepped.started.ready
    assert config.max_position_embeddings == 256
    assert ready.max_model_len == max_model_len
    planned = stepped.started.plan.weights_bytes
    assert ready.weights_bytes == planned if plan_is_exact else ready.weights_bytes <= planned
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
    assert read_config(json.loads((tmp_path / "config.json").read_text())) == case.config
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("shards" in case.name)
    assert worst_of_run(tmp_path, model, device) <= ALLOWED_UNITS


@dataclass(frozen=True)
class Change:
    """A setting of config.json that the weights were not made with; `base` is what they were."""

    base: ModelConfig
    name: str
    value: object


CHANGES = [
    Change(MISTRAL, "sliding_window", 20),
    Change(MISTRAL, "sliding_window", None),
    Change(replace(QWEN3, sliding_window=19, layer_types=(FULL, SLIDING)), "layer_types", [SLIDING, FULL]),
    Change(GEMMA2, "sliding_window", 18),
    Change(GEMMA2, "layer_types", [SLIDING] * 3),
    Change(GEMMA2, "attn_logit_softcapping", None),
    Change(GEMMA2, "final_logit_softcapping", 5.01),
    Change(GEMMA2, "query_pre_attn_scalar", 25),
    Change(PHI3, "rope_parameters", {"rope_theta": 10000.0, "partial_rotary_factor": 0.625}),
    Change(GEMMA3, "rope_parameters", {FULL: {"rope_theta": 1e6}, SLIDING: {"rope_theta": 1.1e4}}),
    Change(GEMMA3, "rope_parameters", {FULL: {"rope_theta": 1.1e6}, SLIDING: {"rope_theta": 1e4}}),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.base.model_type}, {change.name}")
def test_every_setting_matters(change: Change, tmp_path: Path) -> None:
    """That the comparison can fail: with one setting changed it does, by far."""
    model = random_model(change.base)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {change.name: change.value}))
    assert worst_of_run(tmp_path, model) > 100 * ALLOWED_UNITS


# The factors of the longer list are the larger ones, as in published models.
SHORT_FACTOR = tuple(1.0 + 0.05 * index for index in range(6))
LONG_FACTOR = tuple(1.5 + 2.0 * index for index in range(6))


@pytest.mark.parametrize("written", ["safetensors", "old names", "gguf"])
@pytest.mark.parametrize(("original", "max_model_len"), [(128, 128), (4, 256)], ids=["short", "long"])
def test_longrope(
    original: int, max_model_len: int, written: str, tmp_path: Path, device: Literal["cpu", "cuda"]
) -> None:
    # transformers decides by the longest position, and all prompts are longer than 4 tokens.
    scaling = RopeScaling("longrope", 1.0, original, short_factor=SHORT_FACTOR, long_factor=LONG_FACTOR)
    model = random_model(replace(PHI3, rope_scaling=scaling))
    if written == "gguf":
        path = tmp_path / "model.gguf"
        write_gguf(path, model, "F16")
    else:
        path = tmp_path
        model.save_pretrained(path)
    if written == "old names":
        config = json.loads((path / "config.json").read_text())
        new = config.pop("rope_parameters")
        config |= {name: new[name] for name in ("rope_theta", "partial_rotary_factor")}
        config["rope_scaling"] = {"type": "su"} | {
            name: new[name] for name in ("short_factor", "long_factor")
        }
        (path / "config.json").write_text(json.dumps(config))
    assert worst_of_run(path, model, device, max_model_len=max_model_len) <= ALLOWED_UNITS
    if original == 128:
        # Started for long contexts the same model rotates by the other list.
        assert worst_of_run(path, model, device, max_model_len=256) > 100 * ALLOWED_UNITS


# Where releases of transformers put the language model's tensors, and its head.
LAYOUTS = {
    "as saved": None,
    "transformers 4.50": ("language_model.model.", "language_model.lm_head."),
    "transformers 4.52": ("model.language_model.", "lm_head."),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_the_language_model_of_a_gemma_that_sees_images(
    layout: tuple[str, str] | None, tmp_path: Path
) -> None:
    config = Gemma3Config(
        text_config=hf_config(GEMMA3),
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
        image_token_index=95,
        boi_token_index=94,
        eoi_token_index=93,
        tie_word_embeddings=False,
    )
    whole = Gemma3ForConditionalGeneration(config)
    fill_randomly(whole)
    whole.save_pretrained(tmp_path)
    text_config = copy.deepcopy(config.text_config)
    text_config.tie_word_embeddings = False
    model = Gemma3ForCausalLM(text_config)
    model.model.load_state_dict(whole.model.language_model.state_dict())
    model.lm_head.load_state_dict(whole.lm_head.state_dict())
    if layout is not None:
        root, head = layout
        tensors = {}
        for name, tensor in whole.state_dict().items():
            tensors[name.replace("model.language_model.", root).replace("lm_head.", head)] = tensor
        save_file(tensors, tmp_path / "model.safetensors")
    assert worst_of_run(tmp_path, model) <= ALLOWED_UNITS


# Those in blocks of 256 are tested on wider models, in test_gguf_types.
GGUF_TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"]
# Of Mistral's window llama.cpp knows nothing.
GGUF_FAMILIES = TINY | {"mistral": replace(MISTRAL, sliding_window=None, layer_types=())}


@pytest.mark.parametrize("type_name", GGUF_TYPES)
@pytest.mark.parametrize("family", GGUF_FAMILIES)
def test_gguf_of_every_type(
    family: str, type_name: str, tmp_path: Path, device: Literal["cpu", "cuda"]
) -> None:
    model = random_model(GGUF_FAMILIES[family])
    write_gguf(tmp_path / "model.gguf", model, type_name)
    assert worst_of_run(tmp_path / "model.gguf", model, device) <= ALLOWED_UNITS


@pytest.mark.parametrize(
    "config",
    [
        replace(LLAMA, tie_word_embeddings=True, num_key_value_heads=4),
        replace(LLAMA, attention_bias=True, mlp_bias=True, head_dim=24),
        replace(QWEN2, tie_word_embeddings=False, num_key_value_heads=1),
        replace(PHI3, sliding_window=None, layer_types=(), partial_rotary_factor=1.0),
        replace(GEMMA3, final_logit_softcapping=5.0),
    ],
    ids=[
        "llama, tied, as many KV heads",
        "llama, biases, wide heads",
        "qwen2, untied, one KV head",
        "phi3, no window, whole heads",
        "gemma3, final cap",
    ],
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
        ({"num_hidden_layers": 3}, r"has no tensor 'model\.layers\.2\."),
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
