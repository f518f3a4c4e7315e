"""Attention without tensor cores on cards that are not at hand, by the timing model: Qwen2.5-7B's heads."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from issue_rates import issue_rates
from recording import Recording, record
from timing_model import Card, Kernel, Modelled, Wave, model_share, occupancy, read_kernel, simulate_wave

from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.attention_simt_decode import SimtDecodeGeometry, plan_attention_simt_decode
from pascaline.kernels.cuda.attention_simt_prefill import SimtPrefillGeometry, plan_attention_simt_prefill
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan, Specialisation

Array = np.ndarray[Any, np.dtype[Any]]

HEADS, KEY_VALUE_HEADS, HEAD_DIM = 28, 4, 128
_GROUP = HEADS // KEY_VALUE_HEADS
_TILE, _TILES = 4 * PAGE_SIZE, (4, 8)
"""Tokens of a tile of the prefill's kernel, and how many a wave of its blocks has."""
_LANES = 32


@dataclass(frozen=True)
class ModelledAttention:
    """One layer's modelled time beside its limits.

    Parameters
    ----------
    tokens, context : new ones of the one sequence, and all.
    read_s : a plain read of its keys and values.
    peak_s : multiply-adds of what each token sees, at the chip's peak.
    """

    tokens: int
    context: int
    cache_dtype: torch.dtype
    modelled: Modelled
    read_s: float
    peak_s: float
    registers: int
    local_bytes: int
    blocks: int


def model_attention_decode(context: int, cache_dtype: torch.dtype, card: Card) -> ModelledAttention:
    """One key/value head, executed whole; a multiprocessor has the last of its splits, and merges all."""
    call = _call(1, context, KEY_VALUE_HEADS, cache_dtype)
    geometry = plan_attention_simt_decode(call, _chip(card)).geometry
    assert isinstance(geometry, SimtDecodeGeometry)
    plan = plan_attention_simt_decode(_call(1, context, 1, cache_dtype), _chip(card), geometry)
    kernel = _kernel(plan.specialisation, _architecture(card))
    recording = _decode_recording(kernel, geometry, context, cache_dtype, _chip(card))
    own = round(geometry.splits * KEY_VALUE_HEADS / card.gpu.sms)
    share = replace(recording, blocks=recording.blocks[-own:])
    held = occupancy(kernel, plan.block[0], plan.shared_bytes)
    modelled = model_share(kernel, share, held.blocks, card)
    return _result(1, context, cache_dtype, modelled, kernel, held.blocks, card)


@functools.cache
def _decode_recording(
    kernel: Kernel, geometry: SimtDecodeGeometry, context: int, cache_dtype: torch.dtype, chip: ChipLimits
) -> Recording:
    """The same for cards and clocks that differ in nothing else."""
    plan = plan_attention_simt_decode(_call(1, context, 1, cache_dtype), chip, geometry)
    return _recorded(plan, kernel, 1, context, cache_dtype, 1.0)


def model_attention_prefill(
    tokens: int, context: int, cache_dtype: torch.dtype, card: Card, *, waves_on: Card | None = None
) -> ModelledAttention:
    """The last `tokens` of a prompt of `context`: a wave of blocks over few tiles, and what follows for all.

    Blocks of a key/value head that are at work at once read its keys and values together.

    Parameters
    ----------
    waves_on : the card at another clock, at which a wave takes as many clocks.
    """
    call = _call(tokens, context, KEY_VALUE_HEADS, cache_dtype)
    plan = plan_attention_simt_prefill(call, _chip(card))
    geometry = plan.geometry
    assert isinstance(geometry, SimtPrefillGeometry)
    kernel = _kernel(plan.specialisation, _architecture(card))
    held = occupancy(kernel, plan.block[0], plan.shared_bytes)
    wave = _wave(kernel, geometry, held.blocks, cache_dtype, waves_on or card)
    row_blocks = geometry.row_blocks(replace(call, key_value_heads=1, heads=_GROUP))
    last_rows = (min((index + 1) * geometry.rows, tokens * _GROUP) - 1 for index in range(row_blocks))
    seen = [context - tokens + row // _GROUP + 1 for row in last_rows]
    tiles = sum(-(-each // _TILE) for each in seen) / row_blocks
    modelled = wave.modelled(tiles, row_blocks * KEY_VALUE_HEADS / card.gpu.sms, card)
    return _result(tokens, context, cache_dtype, modelled, kernel, held.blocks, card)


@functools.cache
def _wave(
    kernel: Kernel, geometry: SimtPrefillGeometry, resident: int, cache_dtype: torch.dtype, card: Card
) -> Wave:
    recordings = [
        (tiles, _wave_recording(kernel, geometry, resident, cache_dtype, tiles, _chip(card)))
        for tiles in _TILES
    ]
    return simulate_wave(kernel, resident, recordings, card)


@functools.cache
def _wave_recording(
    kernel: Kernel,
    geometry: SimtPrefillGeometry,
    resident: int,
    cache_dtype: torch.dtype,
    tiles: int,
    chip: ChipLimits,
) -> Recording:
    """The same for cards and clocks that differ in nothing else."""
    new = resident * geometry.rows // _GROUP
    call = _call(new, tiles * _TILE, 1, cache_dtype)
    plan = plan_attention_simt_prefill(call, chip, replace(geometry, splits=1))
    together = chip.multiprocessors * resident / KEY_VALUE_HEADS
    return _recorded(plan, kernel, new, tiles * _TILE, cache_dtype, 1 / together)


def _result(
    tokens: int,
    context: int,
    cache_dtype: torch.dtype,
    modelled: Modelled,
    kernel: Kernel,
    blocks: int,
    card: Card,
) -> ModelledAttention:
    seen = sum(range(context - tokens + 1, context + 1))
    instructions = 2 * HEADS * HEAD_DIM * seen / _LANES
    schedulers = issue_rates(_architecture(card)).schedulers
    cache_bytes = 2 * KEY_VALUE_HEADS * context * HEAD_DIM * cache_dtype.itemsize
    return ModelledAttention(
        tokens,
        context,
        cache_dtype,
        modelled,
        read_s=card.read_s(cache_bytes),
        peak_s=instructions / schedulers / card.gpu.sms / card.hertz,
        registers=kernel.resources.registers,
        local_bytes=kernel.resources.local_bytes,
        blocks=blocks,
    )


def _call(tokens: int, context: int, key_value_heads: int, cache_dtype: torch.dtype) -> AttentionCall:
    heads = key_value_heads * _GROUP
    return AttentionCall(
        *(
            tokens,
            1,
            -(-context // PAGE_SIZE),
            heads,
            key_value_heads,
            HEAD_DIM,
            heads * HEAD_DIM,
            cache_dtype,
        )
    )


def _architecture(card: Card) -> str:
    return "sm_" + card.gpu.compute_capability.replace(".", "")


def _chip(card: Card) -> ChipLimits:
    major, minor = (int(number) for number in card.gpu.compute_capability.split("."))
    return ChipLimits((major, minor), card.gpu.sms)


@functools.cache
def _kernel(specialisation: Specialisation, architecture: str) -> Kernel:
    compiled = Compiler(find_nvrtc(architecture), architecture).compile(specialisation)
    return read_kernel(compiled, specialisation.entry)


def _recorded(
    plan: LaunchPlan,
    kernel: Kernel,
    tokens: int,
    context: int,
    cache_dtype: torch.dtype,
    caches_from_memory: float,
) -> Recording:
    """Of one key/value head."""
    given = _inputs(tokens, context, cache_dtype)
    for each in given.values():
        each.flags.writeable = False
    y = np.zeros((tokens, _GROUP, HEAD_DIM), np.float32)
    shares = dict.fromkeys(given, caches_from_memory) | {"query": 1.0, "y": 1.0}
    return record(plan, {**given, "y": y}, kernel.code, shares | dict.fromkeys(plan.scratch, 0.0))


def _inputs(tokens: int, context: int, cache_dtype: torch.dtype) -> Mapping[str, Array]:
    pages = -(-context // PAGE_SIZE)
    generator = torch.Generator().manual_seed(1)
    given = {
        "query": torch.randn(tokens, _GROUP * HEAD_DIM, generator=generator) / HEAD_DIM,
        "page_table": torch.randperm(pages, generator=generator).int(),
        "query_start": torch.tensor([0, tokens], dtype=torch.int32),
        "context_lengths": torch.tensor([context], dtype=torch.int32),
    }
    for name in ("key", "value"):
        numbers = torch.randn(pages, PAGE_SIZE, HEAD_DIM, generator=generator)
        if cache_dtype == torch.int8:
            given[f"{name}_scales"] = torch.full((pages, PAGE_SIZE), 1 / 32)
            numbers = (numbers * 32).round().clamp(-127, 127)
        given[f"{name}_cache"] = numbers.to(cache_dtype)
    return {name: each.numpy() for name, each in given.items()}
