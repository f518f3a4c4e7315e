"""Pascaline's linears on cards that are not at hand, as the timing model has them: int4 in groups of 128."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from issue_rates import issue_rates
from recording import Recording, record
from timing_model import Card, Kernel, Modelled, Wave, model_share, occupancy, read_kernel, simulate_wave

from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_decode import plan_linear_decode
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

    columns: int
    outputs: int
    rows: int
    inputs: InputForm
    modelled: Modelled
    read_s: float
    peak_s: float
    registers: int
    local_bytes: int
    blocks: int


def model_decode(columns: int, outputs: int, rows: int, inputs: InputForm, card: Card) -> ModelledLinear:
    """One multiprocessor's share, executed whole: the outputs divided by their number."""
    share = -(-outputs // card.gpu.sms // TILE_OUTPUTS) * TILE_OUTPUTS
    weight = _weight(share, columns)
    plan = plan_linear_decode(weight.form, LinearCall(rows, share, columns), _chip(card, 1), inputs)
    return _executed(LinearCall(rows, outputs, columns), inputs, plan, weight, card)


def model_rows(columns: int, outputs: int, rows: int, inputs: InputForm, card: Card) -> ModelledLinear:
    """One multiprocessor's share: its blocks' steps, of as many whole groups of tiles, over as many slabs.

    What blocks add up through memory is in L2 when it is read: it has just been written there.
    """
    form = _weight(TILE_OUTPUTS, SLAB).form
    call, chip = LinearCall(rows, outputs, columns), _chip(card, card.gpu.sms)
    geometry = plan_linear_rows(form, call, chip, inputs.planes).geometry
    assert isinstance(geometry, RowsGeometry)
    groups, slabs = -(-outputs // geometry.group_outputs), -(-columns // SLAB)
    own_groups = max(1, round(groups / card.gpu.sms))
    own_slabs = math.ceil(groups * slabs / card.gpu.sms / own_groups)
    weight = _weight(own_groups * geometry.group_outputs, own_slabs * SLAB)
    share = LinearCall(rows, *weight.shape)
    plan = plan_linear_rows(weight.form, share, _chip(card, 1), inputs.planes, geometry)
    read_bytes = _nbytes(weight) * outputs * columns / weight.shape[0] / weight.shape[1]
    return _executed(call, inputs, plan, weight, card, read_bytes)


def _executed(
    call: LinearCall,
    inputs: InputForm,
    plan: LaunchPlan,
    weight: Slabbed,
    card: Card,
    read_bytes: float | None = None,
) -> ModelledLinear:
    """`call` by a multiprocessor's share of it, executed whole: `plan` on `weight`.

    A plain read of all takes `read_bytes`, or what the multiprocessors read where it is None.
    """
    kernel = _kernel(plan.specialisation, _architecture(card))
    recording = _recorded(plan, kernel, weight, call.rows, inputs, 1.0, card)
    held = occupancy(kernel, plan.block[0], plan.shared_bytes)
    return ModelledLinear(
        call.columns,
        call.outputs,
        call.rows,
        inputs,
        modelled=model_share(kernel, recording, held.blocks, card),
        read_s=card.read_s(recording.memory_bytes * card.gpu.sms if read_bytes is None else read_bytes),
        peak_s=_peak_s(call.columns, call.outputs, call.rows, inputs, card),
        registers=kernel.resources.registers,
        local_bytes=kernel.resources.local_bytes,
        blocks=held.blocks,
    )


def model_tile(columns: int, outputs: int, rows: int, inputs: InputForm, card: Card) -> ModelledLinear:
    """One wave of blocks over few slabs, and what follows from it for all."""
    call = LinearCall(rows, outputs, columns)
    plan = plan_linear_tile(_weight(TILE_OUTPUTS, SLAB).form, call, _chip(card, card.gpu.sms), inputs)
    kernel = _kernel(plan.specialisation, _architecture(card))
    held = occupancy(kernel, plan.block[0], plan.shared_bytes)
    macros = dict(plan.specialisation.definitions)
    along_rows, along_outputs, splits = plan.grid
    geometry = TileGeometry(macros["WARPS_M"], macros["WARPS_N"], macros["MIN_BLOCKS"], splits)
    a_multiprocessor = -(-along_rows * along_outputs * splits // card.gpu.sms)
    resident = min(held.blocks, a_multiprocessor)
    wave = _wave(kernel, geometry, resident, inputs, 1 / along_rows, card)
    return ModelledLinear(
        columns,
        outputs,
        rows,
        inputs,
        modelled=wave.modelled(-(-columns // SLAB) / splits, a_multiprocessor, card),
        read_s=card.read_s(outputs * columns * INT4.bits / 8),
        peak_s=_peak_s(columns, outputs, rows, inputs, card),
        registers=kernel.resources.registers,
        local_bytes=kernel.resources.local_bytes,
        blocks=held.blocks,
    )


@functools.cache
def _wave(
    kernel: Kernel, geometry: TileGeometry, resident: int, inputs: InputForm, from_memory: float, card: Card
) -> Wave:
    """One wave of blocks, along the outputs, over few slabs; where K is in parts, a wave for each of them."""

    def recorded(slabs: int) -> Recording:
        weight = _weight(geometry.block_outputs * resident, slabs * geometry.splits * SLAB)
        call = LinearCall(geometry.block_rows, weight.shape[0], weight.shape[1])
        plan = plan_linear_tile(weight.form, call, _chip(card, 1), inputs, geometry)
        return _recorded(plan, kernel, weight, call.rows, inputs, from_memory, card)

    return simulate_wave(kernel, resident, [(slabs, recorded(slabs)) for slabs in _SLABS], card)


def _peak_s(columns: int, outputs: int, rows: int, inputs: InputForm, card: Card) -> float:
    per_product = inputs.planes / _CODES_PER_DOT if inputs.planes else 1.0
    instructions = rows * outputs * columns * per_product / _LANES
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
def _weight(outputs: int, columns: int) -> Slabbed:
    return to_slabs(random_packed(INT4, outputs, columns, torch.Generator().manual_seed(1)))


def _recorded(
    plan: LaunchPlan,
    kernel: Kernel,
    weight: Slabbed,
    rows: int,
    inputs: InputForm,
    weights_from_memory: float,
    card: Card,
) -> Recording:
    outputs, columns = weight.shape
    weights = {name: each.numpy() for name, each in weight.buffers.items()}
    given = _inputs(rows, columns, inputs)
    for each in (*weights.values(), *given.values()):
        each.flags.writeable = False
    y = np.zeros((rows, outputs), np.float16)
    shares = dict.fromkeys(weights, weights_from_memory) | dict.fromkeys(given, 1 / card.gpu.sms)
    shares |= {"y": 1.0} | dict.fromkeys(plan.scratch, 0.0)
    return record(plan, {**weights, **given, "y": y}, kernel.code, shares)


def _inputs(rows: int, columns: int, inputs: InputForm) -> Mapping[str, Array]:
    if not inputs.is_quantised:
        return {"x": np.ones((rows, columns), np.float16)}
    return {
        name: torch.ones(shape, dtype=dtype).numpy()
        for name, (shape, dtype) in quantised_shapes(rows, columns, inputs.planes).items()
    }
