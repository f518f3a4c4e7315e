"""Whole steps of Qwen2.5-7B in GPTQ int4 on cards that are not at hand: all launches by the timing model.

The sum of what each launch takes alone, for on these cards none begins before the one before it has ended.
Buffers of up to half of L2 are taken to be there when they are read, larger ones to come from memory. What a
launch's last writes take until memory has them is left out: 2 µs at most where a few blocks a multiprocessor
write 16 bytes a thread.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from multiprocessor import Trace
from recording import Recording, record
from timing_model import Card, Kernel, model_share, occupancy, read_kernel

from harness.modelled_attention import model_attention_decode, model_attention_prefill
from harness.modelled_linears import model_decode, model_tile
from harness.random_model import QWEN_7B
from harness.recorded_step import StepLaunch, record_step
from pascaline.engine.engine_config import EngineConfig
from pascaline.hardware.gpus import Gpu, find_gpu
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES, LinearCall
from pascaline.kernels.cuda.linear_decode import DecodeGeometry
from pascaline.kernels.cuda.linear_tile import TileGeometry
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.sampling import CHOICE, GREEDY, LINE, plan_choose_tokens
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation
from pascaline.kernels.cuda.take_sampled import plan_take_sampled
from pascaline.kernels.policy import Arithmetic
from pascaline.workload.slab_form import SLAB

Array = np.ndarray[Any, np.dtype[Any]]

LAUNCH_S = 1.5e-6
"""Assumed from the end of a launch to the beginning of the next, and for a copy of a few bytes: nobody is
known to have published it for such cards. An empty kernel of a graph takes 0.69 µs on an H200, measured."""

COPIES = 2
"""Of a step: what it computes, and what it has chosen. The page table changes once in 16 tokens."""

CHUNK = EngineConfig.max_batch_tokens
"""Tokens of a prompt that a step takes, by default."""

_SHARED = ("gain", "cosine", "sine")
"""Buffers that all multiprocessors read, and that other layers' have driven out of L2 in between."""
_WEIGHTS = ("weight", "table")
_HEAD = "select_rows"
"""What comes after all layers, and begins what is done for the last chunk of a prompt alone."""
_PLACES = ("token_ids", "positions", "slots")
_MOST_BYTES = 32 << 20
"""Of a buffer: what blocks further on would access is left out."""
_ROUNDS = (2, 4)
"""Of a multiprocessor's blocks, from which follows what further ones take."""


@dataclass(frozen=True)
class ModelledPart:
    """Launches of a step that are alike.

    Parameters
    ----------
    name : of the kernel, and what tells it from others.
    launches : how many.
    time_s : of all of them, without what lies between launches.
    """

    name: str
    launches: int
    time_s: float


@dataclass(frozen=True)
class ModelledStep:
    """A step, or several one after the other."""

    parts: tuple[ModelledPart, ...]
    copies: int

    @property
    def launches(self) -> int:
        return sum(each.launches for each in self.parts)

    @property
    def between_s(self) -> float:
        """What launches and copies cost beside their work."""
        return (self.launches + self.copies) * LAUNCH_S

    @property
    def time_s(self) -> float:
        return sum(each.time_s for each in self.parts) + self.between_s

    def of(self, *names: str) -> float:
        """Seconds of the kernels whose names begin so."""
        return sum(each.time_s for each in self.parts if each.name.startswith(names))


def model_prompt(
    tokens: int, arithmetic: Arithmetic, card: Card, waves_on: Card, *, is_fused: bool = False
) -> ModelledStep:
    """A prompt of whole chunks, and the first token after it.

    Parameters
    ----------
    waves_on : a card of as many multiprocessors, or the same one, at any clock: waves of products and of
        attention are simulated on that, once for all. They take about as many clocks: of products 0.3 % more
        where a clock brings a fifth fewer bytes.
    is_fused : launched as graphs are: what it would take.
    """
    recorded = _recorded_step(card.gpu.name, CHUNK, tokens, arithmetic, is_fused)
    head = next(index for index, launch in enumerate(recorded) if launch.op == _HEAD)
    take, choose = _sampling()
    parts = _modelled((*recorded[head:], choose), CHUNK, tokens, card, waves_on)
    for context in range(CHUNK, tokens + 1, CHUNK):
        parts += _modelled((take, *recorded[:head]), CHUNK, context, card, waves_on)
    return ModelledStep(_merged(parts), COPIES * tokens // CHUNK)


def model_token(context: int, arithmetic: Arithmetic, card: Card) -> ModelledStep:
    """One further token of one sequence, whose keys and values are fp16."""
    recorded = _recorded_step(card.gpu.name, 1, context, arithmetic, True)
    take, choose = _sampling()
    return ModelledStep(_merged(_modelled((take, *recorded, choose), 1, context, card, card)), COPIES)


@functools.cache
def _recorded_step(
    gpu_name: str, tokens: int, context: int, arithmetic: Arithmetic, is_fused: bool
) -> tuple[StepLaunch, ...]:
    return tuple(record_step(find_gpu(gpu_name), tokens, context, arithmetic, is_fused=is_fused))


@functools.cache
def _sampling() -> tuple[StepLaunch, StepLaunch]:
    """Before the step a place for what the last one has chosen, and after it the likeliest token."""
    line = np.zeros(1, LINE)
    line["way"], line["shaped"], line["reach"] = GREEDY, -1, np.inf
    ids, vocabulary = torch.zeros(CHUNK, dtype=torch.int64), QWEN_7B.vocab
    buffers = {
        "logits": torch.empty(1, vocabulary, device="meta"),
        "lines": torch.from_numpy(line.view(np.uint8)),
        "ids": ids,
        "choices": torch.zeros(CHOICE.itemsize, dtype=torch.uint8),
        "ranges": torch.zeros(2),
    }
    take, choose = plan_take_sampled(CHUNK), plan_choose_tokens(1, vocabulary, vocabulary)
    return (
        StepLaunch("take_sampled", take, {"token_ids": ids, "sampled": ids}),
        StepLaunch("choose_tokens", choose, buffers),
    )


def _modelled(
    step: Iterable[StepLaunch], tokens: int, context: int, card: Card, waves_on: Card
) -> list[ModelledPart]:
    """Launches that are alike are modelled once."""
    alike: dict[tuple[object, ...], list[StepLaunch]] = {}
    for launch in step:
        plan = launch.plan
        alike.setdefault((plan.specialisation, plan.grid, plan.arguments), []).append(launch)
    found = []
    for first, *others in alike.values():
        is_attention = first.op == "paged_attention"
        name, time_s = _launch(first, tokens, context if is_attention else 0, card, waves_on)
        found.append(ModelledPart(name, 1 + len(others), (1 + len(others)) * time_s))
    return found


@functools.cache
def _launch(launch: StepLaunch, tokens: int, context: int, card: Card, waves_on: Card) -> tuple[str, float]:
    """What a launch is called, and its time."""
    plan = launch.plan
    entry = plan.specialisation.entry
    if entry in ("linear_decode", "linear_tile"):
        return _linear(plan, card, waves_on)
    if entry == "attention_simt_prefill":
        attention = model_attention_prefill(tokens, context, torch.float16, card, waves_on=waves_on)
        return entry, attention.modelled.time_s
    if entry == "attention_simt_decode" and tokens == 1:
        return entry, model_attention_decode(context, torch.float16, card).modelled.time_s
    return f"{entry} ({launch.op})", _small(launch, card)


def _linear(plan: LaunchPlan, card: Card, waves_on: Card) -> tuple[str, float]:
    """By what its plan says of the product."""
    macros = dict(plan.specialisation.definitions)
    dtypes = {number: dtype for dtype, number in NUMBER_TYPES.items()}
    is_tile = isinstance(plan.geometry, TileGeometry)
    numbers = [each.value for each in plan.arguments if isinstance(each, Integer)]
    rows, outputs, columns = (
        (numbers[0], numbers[1], numbers[2] * SLAB) if is_tile else (macros["ROWS"], numbers[1], numbers[0])
    )
    call = LinearCall(
        rows,
        outputs,
        columns,
        dtypes[macros["INPUT_TYPE"]],
        dtypes[macros["OUTPUT_TYPE"]],
        bias_dtype=dtypes[macros["BIAS_TYPE"]] if macros["HAS_BIAS"] else None,
        is_gated=bool(macros["GATE"]),
    )
    is_quantised = is_tile or bool(macros["QUANTISED_INPUT"])
    planes = 0 if macros.get("ARITHMETIC") else macros["PLANES"]
    inputs = InputForm(planes, macros["SCALE_GROUP"], is_quantised=is_quantised)
    name = f"{plan.specialisation.entry} {columns}×{outputs}"
    if is_tile:
        assert isinstance(plan.geometry, TileGeometry)
        return name, model_tile(call, inputs, card, plan.geometry, waves_on=waves_on).modelled.time_s
    assert isinstance(plan.geometry, DecodeGeometry)
    return name, model_decode(call, inputs, card, plan.geometry).modelled.time_s


def _small(launch: StepLaunch, card: Card) -> float:
    """The last blocks of a multiprocessor where they add something up, else as many as it has, all alike."""
    plan = launch.plan
    kernel = _kernel(plan.specialisation, card.gpu.compute_capability)
    total = math.prod(plan.grid)
    own = -(-total // card.gpu.sms)
    resident = min(own, occupancy(kernel, plan.block[0], plan.shared_bytes).blocks)
    if plan.scratch:
        recording = _recorded(launch, None, kernel, card.gpu.name)
        return _time_s(kernel, recording, recording.blocks[-own:], resident, card)
    recording = _recorded(launch, min(resident, total), kernel, card.gpu.name)
    if own <= resident * _ROUNDS[1]:
        blocks = (recording.blocks * _ROUNDS[1])[:own]
        return _time_s(kernel, recording, blocks, resident, card)
    short, long = (_time_s(kernel, recording, recording.blocks * each, resident, card) for each in _ROUNDS)
    rounds = own / resident - _ROUNDS[0]
    return short + (long - short) * rounds / (_ROUNDS[1] - _ROUNDS[0])


def _time_s(
    kernel: Kernel, recording: Recording, blocks: tuple[tuple[Trace, ...], ...], resident: int, card: Card
) -> float:
    return model_share(kernel, replace(recording, blocks=blocks), resident, card).time_s


@functools.cache
def _kernel(specialisation: Specialisation, compute_capability: str) -> Kernel:
    architecture = "sm_" + compute_capability.replace(".", "")
    compiled = Compiler(find_nvrtc(architecture), architecture).compile(specialisation)
    return read_kernel(compiled, specialisation.entry)


@functools.cache
def _recorded(launch: StepLaunch, blocks: int | None, kernel: Kernel, gpu_name: str) -> Recording:
    """The first so many blocks, or all."""
    gpu = find_gpu(gpu_name)
    plan = launch.plan if blocks is None else replace(launch.plan, grid=(blocks, 1, 1))
    named = {argument for argument in plan.arguments if isinstance(argument, str)}
    buffers = {name: each for name, each in launch.buffers.items() if each is not None and name in named}
    readers = min(gpu.sms, math.prod(launch.plan.grid))
    shares = {name: _from_memory(name, each, readers, gpu) for name, each in buffers.items()}
    arrays = {name: _memory(name, each) for name, each in buffers.items()}
    return record(plan, arrays, kernel.code, shares | dict.fromkeys(plan.scratch, 0.0))


def _from_memory(name: str, buffer: torch.Tensor, readers: int, gpu: Gpu) -> float:
    if name in _WEIGHTS:
        return 1.0
    if name in _SHARED:
        return 1 / readers
    return float(2 * buffer.nbytes > gpu.l2_mib * 2**20)


def _memory(name: str, buffer: torch.Tensor) -> Array:
    """Zeros in the place of its elements and what lies between them; no two tokens have one place."""
    if name == "lines":
        return buffer.numpy()
    span = 1 + sum((size - 1) * step for size, step in zip(buffer.shape, buffer.stride(), strict=True))
    count = min(span, _MOST_BYTES // buffer.dtype.itemsize)
    if name in _PLACES:
        return torch.arange(count, dtype=buffer.dtype).numpy()
    return torch.zeros(count, dtype=buffer.dtype).numpy()


def _merged(parts: Iterable[ModelledPart]) -> tuple[ModelledPart, ...]:
    """Parts of the same name as one, in the order of the first."""
    merged: dict[str, ModelledPart] = {}
    for each in parts:
        before = merged.get(each.name, ModelledPart(each.name, 0, 0.0))
        merged[each.name] = ModelledPart(
            each.name, before.launches + each.launches, before.time_s + each.time_s
        )
    return tuple(merged.values())
