"""The launches that are told from a configuration are those that the model makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import ShapeError
from pascaline.kernels import KERNELS, OPS, Chip, Launcher, Policy
from pascaline.kernels.recording import RecordedLaunch
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import Decoder, build
from pascaline.models import FAMILIES
from pascaline.weights import Dense, Weight
from pascaline.workload.op_costs import OP_COSTS
from pascaline.workload.places import weight_places
from pascaline.workload.step import StepShape, launches

CPU = torch.device("cpu")
TINY = {name: family.tiny for name, family in FAMILIES.items()}
CONFIGS = TINY | {
    "llama, tied": replace(TINY["llama"], tie_word_embeddings=True),
    "llama, biases": replace(TINY["llama"], attention_bias=True, mlp_bias=True),
    "qwen3, biases": replace(TINY["qwen3"], attention_bias=True),
    "phi3, biases of the feed-forward block": replace(TINY["phi3"], mlp_bias=True),
}
SHAPES = {
    "one prompt": StepShape((7,), (7,), 1),
    "decoding": StepShape((1, 1, 1), (5, 40, 17), 3),
    "both": StepShape((1, 30, 2), (60, 30, 50), 2),
    "a chunk without logits": StepShape((25,), (60,), 0),
}
OF_POOLS = {"store_rows": {"P", "B"}, "paged_attention": {"P", "B", "W"}, "rotary": {"P"}}
"""Axes of pools and tables, which a step does not depend on."""
OF_STEPS = {"store_rows": {"E"}, "paged_attention": {"J", "L", "E"}}
"""Axes that shapes do not have."""


def model_of(config: ModelConfig) -> tuple[Decoder, Launcher, dict[int, tuple[str, ...]]]:
    """A model with weights of the right shapes, and the names of what each is made of, by id."""
    launcher = Launcher(Policy(Chip(CPU), KERNELS, "fp32"))
    model = build(config, launcher)
    names: dict[int, tuple[str, ...]] = {}
    for slot in model.weight_slots():
        rows = sum(part.shape[0] for part in slot.parts)
        weight = Dense(torch.zeros(rows, *slot.parts[0].shape[1:]))
        if slot.attribute == "weight" or len(slot.parts) == 1:
            slot.fill([(weight, len(slot.parts))])
        else:
            slot.fill([(Dense(torch.zeros(part.shape)), 1) for part in slot.parts])
        names[id(weight)] = tuple(part.name for part in slot.parts)
    model.rotary.build(64)
    return model, launcher, names


def recorded(config: ModelConfig, shape: StepShape) -> Iterator[tuple[RecordedLaunch, tuple[str, ...]]]:
    """What the model launches, and the names of the weights that each launch reads."""
    model, launcher, names = model_of(config)
    biases = {slot.module.path: slot.parts for slot in model.weight_slots() if slot.attribute == "bias"}
    batch = StepBatch.of_sizes(shape.tokens, len(shape.new_tokens), 5)
    batch = replace(batch, logit_rows=batch.logit_rows[: shape.logit_rows])
    cache = KeyValueCache(config, 9, torch.float32, CPU)
    with launcher.recording() as recorder:
        model(batch, cache)
    for launch in recorder.launches:
        read = [name for value in launch.inputs if isinstance(value, Weight) for name in names[id(value)]]
        if launch.op.name == "linear" and launch.inputs[2] is not None:
            read += [part.name for part in biases[launch.path]]
        yield launch, tuple(read)


def without(axes: dict[str, int], names: set[str]) -> dict[str, int]:
    return {name: size for name, size in axes.items() if name not in names}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_launches_are_those_of_the_model(config: ModelConfig, shape: StepShape) -> None:
    made = [
        (
            launch.path,
            launch.op.name,
            without(launch.op.bind(launch.inputs), OF_POOLS.get(launch.op.name, set())),
            names,
        )
        for launch, names in recorded(config, shape)
    ]
    told = [
        (
            launch.module,
            launch.op,
            without(dict(launch.axes), OF_STEPS.get(launch.op, set())),
            launch.weights,
        )
        for launch in launches(config, shape)
    ]
    assert told == made


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_places_are_those_of_the_model(config: ModelConfig) -> None:
    slots = [(slot.module.path, slot.attribute, slot.parts) for slot in model_of(config)[0].weight_slots()]
    assert [(place.module, place.attribute, place.parts) for place in weight_places(config)] == slots


@pytest.mark.parametrize("window", [None, 1, 4, 30, 60])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_visible_tokens_are_counted_one_by_one(shape: StepShape, window: int | None) -> None:
    """Against the mask, written out."""
    pairs = tokens = 0
    for new, context in zip(shape.new_tokens, shape.context_tokens, strict=True):
        own = torch.arange(context - new, context)[:, None]
        seen = torch.arange(context)[None] <= own
        if window is not None:
            seen &= torch.arange(context)[None] > own - window
        pairs += int(seen.sum())
        tokens += int(seen.any(0).sum())
    assert (shape.visible_pairs(window), shape.visible_tokens(window)) == (pairs, tokens)


def test_attention_costs_what_is_visible_and_the_caches_elements() -> None:
    config = TINY["mistral"]  # 4 heads, 2 for keys, of 24 elements; a window of 19
    step = launches(config, StepShape((1, 30), (60, 30), 2), key_value_element_bytes=2)
    attention = next(launch for launch in step if launch.op == "paged_attention")
    pairs = 19 + sum(min(position + 1, 19) for position in range(30))
    assert attention.flop_by_type == {"fp32": 4.0 * 4 * 24 * pairs}
    assert attention.moved_bytes == 2 * 2 * (19 + 30) * 2 * 24 + 8 * 31 * 4 * 24
    stored = next(launch for launch in step if launch.op == "store_rows")
    assert stored.moved_bytes == (4 + 2) * 31 * 2 * 24


def test_every_op_has_a_cost() -> None:
    assert list(OP_COSTS) == list(OPS)


@pytest.mark.parametrize(
    ("new", "context", "rows"), [((0,), (3,), 0), ((4,), (3,), 1), ((1, 1), (3,), 1), ((1,), (3,), 2)]
)
def test_steps_that_cannot_be_are_refused(new: tuple[int, ...], context: tuple[int, ...], rows: int) -> None:
    with pytest.raises(ShapeError):
        StepShape(new, context, rows)
