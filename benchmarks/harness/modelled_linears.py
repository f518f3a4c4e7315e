"""Pascaline's linears on cards that are not at hand, as the timing model has them: int4 in groups of 128."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from issue_rates import issue_rates
from recording import Recording, record
from timing_model import Card, Kernel, Modelled, Wave, model_share, occupancy, read_kernel, simulate_wave

from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_decode import DecodeGeometry, plan_linear_decode
from pascaline.kernels.cuda.linear_rows import RowsGeometry, plan_linear_rows
from pascaline.kernels.cuda.linear_tile import TileGeometry, plan_linear_tile
from pascaline.kernels.cuda.quantise_input import InputForm, quantised_shapes
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan, Specialisation
from pascaline.kernels.packed_cases import PackedForm, random_packed
from pascaline.weights.slab_layout import to_slabs
from pascaline.weights.slabbed import Slabbed
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS

Array = np.ndarray[Any, np.dtype[Any]]

INT4 = PackedForm(4, 128, (2,), zero=8)
_SLABS = (4, 12)
"""Of a wave of tiles: with fewer, how warps happen to meet changes what a slab takes by a hundredth."""

_CODES_PER_DOT, _LANES = 4, 32


@dataclass(frozen=True)
class ModelledLinear:
    """One product's modelled time beside its limits.

    Parameters
    ----------
    read_s : a plain read of the bytes that it moves.
    peak_s : its dot products, or in fp32 its multiply-adds, at the chip's peak.
    """

    call: LinearCall
    inputs: InputForm
    modelled: Modelled
    read_s: float
    peak_s: float
    registers: int
    local_bytes: int
    blocks: int


def model_decode(
    call: LinearCall, inputs: InputForm, card: Card, geometry: DecodeGeometry | None = None
) -> ModelledLinear:
    """One multiprocessor's share, executed whole: the outputs divided by their number."""
    unit = TILE_OUTPUTS * (2 if call.is_gated else 1)
    share = replace(call, outputs=-(-call.outputs // card.gpu.sms // unit) * unit)
    form = int4_weight(TILE_OUTPUTS, 2 * SLAB).form
    plan = plan_linear_decode(form, share, _chip(card, 1), inputs, geometry)
    return _executed(call, share, inputs, plan, card)


def model_rows(call: LinearCall, inputs: InputForm, card: Card) -> ModelledLinear:
    """One multiprocessor's share: its blocks' steps, of as many whole groups of tiles, over as many slabs.

    What blocks add up through memory is in L2 when it is read: it has just been written there.
    """
    form = int4_weight(TILE_OUTPUTS, 2 * SLAB).form
    outputs, columns = call.outputs, call.columns
    geometry = plan_linear_rows(form, call, _chip(card, card.gpu.sms), inputs.planes).geometry
    assert isinstance(geometry, RowsGeometry)
    groups, slabs = -(-outputs // geometry.group_outputs), -(-columns // SLAB)
    own_groups = max(1, round(groups / card.gpu.sms))
    own_slabs = math.ceil(groups * slabs / card.gpu.sms / own_groups)
    share = replace(call, outputs=own_groups * geometry.group_outputs, columns=own_slabs * SLAB)
    plan = plan_linear_rows(form, share, _chip(card, 1), inputs.planes, geometry)
    weight_bytes = _nbytes(int4_weight(share.outputs, share.columns))
    read_bytes = weight_bytes * outputs * columns / share.outputs / share.columns
    return _executed(call, share, inputs, plan, card, read_bytes)


def _executed(
    call: LinearCall,
    share: LinearCall,
    inputs: InputForm,
    plan: LaunchPlan,
    card: Card,
    read_bytes: float | None = None,
) -> ModelledLinear:
    """`call` by a multiprocessor's share of it, executed whole by `plan`.

    A plain read of all takes `read_bytes`, or what the multiprocessors read where it is None.
    """
    kernel = _kernel(plan.specialisation, _architecture(card))
    recording = _recorded(_Planned(plan), kernel, share, inputs, 1.0, card.gpu.sms)
    held = occupancy(kernel, plan.block[0], plan.shared_bytes)
    return ModelledLinear(
        call,
        inputs,
        modelled=model_share(kernel, recording, held.blocks, card),
        read_s=card.read_s(recording.memory_bytes * card.gpu.sms if read_bytes is None else read_bytes),
        peak_s=_peak_s(call, inputs, card),
        registers=kernel.resources.registers,
        local_bytes=kernel.resources.local_bytes,
        blocks=held.blocks,
    )


def model_tile(
    call: LinearCall,
    inputs: InputForm,
    card: Card,
    geometry: TileGeometry | None = None,
    *,
    waves_on: Card | None = None,
) -> ModelledLinear:
    """One wave of blocks over few slabs, and what follows from it for all.

    Parameters
    ----------
    waves_on : the card at another clock, at which a wave takes as many clocks.
    """
    form = int4_weight(TILE_OUTPUTS, 2 * SLAB).form
    plan = plan_linear_tile(form, call, _chip(card, card.gpu.sms), inputs, geometry)
    kernel = _kernel(plan.specialisation, _architecture(card))
    held = occupancy(kernel, plan.block[0], plan.shared_bytes)
    along_rows, along_outputs, splits = plan.grid
    assert isinstance(plan.geometry, TileGeometry)
    a_multiprocessor = -(-along_rows * along_outputs * splits // card.gpu.sms)
    resident = min(held.blocks, a_multiprocessor)
    # Of any call with the same machine code, such that it is recorded and simulated once.
    like = replace(call, rows=plan.geometry.block_rows, outputs=plan.geometry.block_outputs * resident)
    like = replace(like, columns=SLAB)
    wave = _wave(kernel, resident, like, plan.geometry, inputs, 1 / along_rows, waves_on or card)
    return ModelledLinear(
        call,
        inputs,
        modelled=wave.modelled(-(-call.columns // SLAB) / splits, a_multiprocessor, card),
        read_s=card.read_s(call.outputs * call.columns * INT4.bits / 8),
        peak_s=_peak_s(call, inputs, card),
        registers=kernel.resources.registers,
        local_bytes=kernel.resources.local_bytes,
        blocks=held.blocks,
    )


@functools.cache
def _wave(
    kernel: Kernel,
    resident: int,
    like: LinearCall,
    geometry: TileGeometry,
    inputs: InputForm,
    from_memory: float,
    card: Card,
) -> Wave:
    """One wave of blocks, along the outputs, over few slabs; where K is in parts, a wave for each of them."""
    recordings = []
    for slabs in _SLABS:
        share = replace(like, columns=slabs * geometry.splits * SLAB)
        form = int4_weight(TILE_OUTPUTS, 2 * SLAB).form
        plan = plan_linear_tile(form, share, _chip(card, 1), inputs, geometry)
        recording = _recorded(_Planned(plan), kernel, share, inputs, from_memory, card.gpu.sms)
        recordings.append((slabs, recording))
    return simulate_wave(kernel, resident, recordings, card)


def _peak_s(call: LinearCall, inputs: InputForm, card: Card) -> float:
    per_product = inputs.planes / _CODES_PER_DOT if inputs.planes else 1.0
    instructions = call.rows * call.outputs * call.columns * per_product / _LANES
    return instructions / issue_rates(_architecture(card)).schedulers / card.gpu.sms / card.hertz


def _nbytes(weight: Slabbed) -> int:
    return sum(each.nbytes for each in weight.buffers.values())


def _architecture(card: Card) -> str:
    return "sm_" + card.gpu.compute_capability.replace(".", "")


def _chip(card: Card, multiprocessors: int) -> ChipLimits:
    major, minor = (int(number) for number in card.gpu.compute_capability.split("."))
    return ChipLimits((major, minor), multiprocessors)


@functools.cache
def _kernel(specialisation: Specialisation, architecture: str) -> Kernel:
    compiled = Compiler(find_nvrtc(architecture), architecture).compile(specialisation)
    return read_kernel(compiled, specialisation.entry)


@functools.cache
def int4_weight(outputs: int, columns: int) -> Slabbed:
    """Of two slabs at least its form is that of any: of one, a group is the whole row."""
    return to_slabs(random_packed(INT4, outputs, columns, torch.Generator().manual_seed(1)))


@dataclass(frozen=True)
class _Planned:
    """A plan, which is another's equal if their launches are the same."""

    plan: LaunchPlan = field(compare=False)
    launch: tuple[object, ...] = field(init=False)

    def __post_init__(self) -> None:
        launch = (self.plan.specialisation, self.plan.grid, self.plan.arguments)
        object.__setattr__(self, "launch", launch)


@functools.cache
def _recorded(
    planned: _Planned,
    kernel: Kernel,
    call: LinearCall,
    inputs: InputForm,
    weights_from_memory: float,
    multiprocessors: int,
) -> Recording:
    """Once for all cards and clocks that differ in nothing of it."""
    plan, weight = planned.plan, int4_weight(call.outputs, call.columns)
    weights = {name: each.numpy() for name, each in weight.buffers.items()}
    given = _inputs(call, inputs)
    if call.bias_dtype is not None:
        given["bias"] = torch.zeros(call.outputs, dtype=call.bias_dtype).numpy()
    for each in (*weights.values(), *given.values()):
        each.flags.writeable = False
    y = torch.zeros(call.rows, call.outputs // (2 if call.is_gated else 1), dtype=call.output_dtype).numpy()
    shares = dict.fromkeys(weights, weights_from_memory) | dict.fromkeys(given, 1 / multiprocessors)
    shares |= {"y": 1.0} | dict.fromkeys(plan.scratch, 0.0)
    return record(plan, {**weights, **given, "y": y}, kernel.code, shares)


def _inputs(call: LinearCall, inputs: InputForm) -> dict[str, Array]:
    if not inputs.is_quantised:
        return {"x": torch.ones(call.rows, call.columns, dtype=call.input_dtype).numpy()}
    return {
        name: torch.ones(shape, dtype=dtype).numpy()
        for name, (shape, dtype) in quantised_shapes(call.rows, call.columns, inputs.planes).items()
    }
