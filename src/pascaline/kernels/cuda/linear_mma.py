"""linear_mma.cu: packed weights times some rows to some hundreds, by tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, NUMBER_TYPES, WEIGHT_BUFFERS, LinearCall
from pascaline.kernels.cuda.specialisation import (
    ChipLimits,
    Integer,
    LaunchPlan,
    Specialisation,
    parts_scratch,
)
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS, Integers

_CANDIDATES = 24
_REGISTERS, _SCHEDULERS = 64 << 10, 4
"""Of a multiprocessor; every scheduler has its share of the warps and of the registers."""
_COPIES_PAST_REGISTERS = (8, 0)
"""Chips that copy to shared memory while they compute, from here on."""
LEAST_ROUNDED_ROWS = 25
"""From here on weights may be rounded, for the sake of one level of sums."""
_BYTES_PER_CYCLE, _CACHED_BYTES_PER_CYCLE, _LATENCY_CYCLES = 17.0, 6.0, 1200.0
"""Of a multiprocessor: from memory, from the second cache, and until the first of them."""
_ROWS = (8, 16, 24, 32, 48, 64)
"""Rows of a block: more take more registers than there are."""
_WARPS = {8: (16, 8), 16: (16, 8), 24: (12, 8), 32: (12, 8), 48: (8,), 64: (8,)}
"""Warps of a block, by its rows: as many as registers allow, and less for several blocks a multiprocessor."""


@dataclass(frozen=True)
class MmaGeometry:
    """How the product is cut up; the names are the source's definitions."""

    block_rows: int
    tiles: int
    warps_along_outputs: int
    warps_along_inputs: int
    stages: int = 3
    turns_per_stage: int = 1
    rounds_weights: bool = False
    """Scaled weights, rounded to 16 bits, in place of codes whose sums are scaled."""
    min_blocks: int = 1
    sharers: int = 0
    """Blocks of threads that share what is left of the result when all multiprocessors have as much; or 0."""

    @property
    def warps(self) -> int:
        return self.warps_along_outputs * self.warps_along_inputs

    @property
    def block_outputs(self) -> int:
        return self.warps_along_outputs * self.tiles * TILE_OUTPUTS

    @property
    def shared_bytes(self) -> int:
        """Inputs on their way, and in their place the sums at the end."""
        inputs = self.stages * self.turns_per_stage * self.warps_along_inputs * self.block_rows * SLAB * 2
        sums = self.warps_along_inputs * self.block_rows * (self.block_outputs + 4) * 4
        return max(inputs, sums)

    def outputs_used(self, call: LinearCall) -> int:
        """Outputs of y that a block computes."""
        if not call.is_gated:
            return self.block_outputs
        return self.block_outputs // 2 - (TILE_OUTPUTS if call.outputs // 2 % TILE_OUTPUTS else 0)

    def is_narrow(self, call: LinearCall) -> bool:
        """Whether the weight has fewer tiles than a warp takes side by side."""
        return -(-call.outputs // TILE_OUTPUTS) < self.tiles // (2 if call.is_gated else 1)

    def blocks(self, call: LinearCall) -> int:
        """Blocks of the result."""
        outputs = call.outputs // 2 if call.is_gated else call.outputs
        return -(-call.rows // self.block_rows) * -(-outputs // self.outputs_used(call))

    def shared_blocks(self, call: LinearCall, chip: ChipLimits) -> int:
        """Blocks of the result that are shared: what is left when all multiprocessors have as much."""
        return self.blocks(call) % chip.multiprocessors if self.sharers else 0

    def turns(self, call: LinearCall) -> int:
        """Slabs that a group of warps takes one after another for a block of the result."""
        return -(-call.columns // (SLAB * self.warps_along_inputs))


def matrix_dtype(call: LinearCall) -> torch.dtype:
    """What the tensor cores multiply: x as it is, or fp16 in place of fp32."""
    return torch.float16 if call.input_dtype == torch.float32 else call.input_dtype


def plan_linear_mma(
    form: SlabbedForm,
    call: LinearCall,
    chip: ChipLimits,
    geometry: MmaGeometry | None = None,
    *,
    is_permuted: bool = False,
) -> LaunchPlan:
    """y = x · Wᵀ by mma.sync; inputs of fp32 are rounded to fp16.

    Parameters
    ----------
    geometry : that of a model of the chip where it is None.
    is_permuted : the weight stores inputs in an order of its own (`Slabbed.inputs`).

    Raises
    ------
    UnsupportedError : the chip has no such instructions for the inputs' type.
    """
    if chip.compute_capability < ((8, 0) if matrix_dtype(call) == torch.bfloat16 else (7, 5)):
        raise UnsupportedError(f"products of {call.input_dtype} by mma.sync on {chip.architecture}")
    if geometry is None:
        geometry = next(_geometries(form, call, chip))
    is_copied = call.input_dtype == matrix_dtype(call) and call.columns % 8 == 0 and not is_permuted
    definitions = (
        *form.definitions,
        *call.definitions,
        ("MATRIX_TYPE", NUMBER_TYPES[matrix_dtype(call)]),
        ("IS_COPIED", int(is_copied)),
        ("BLOCK_ROWS", geometry.block_rows),
        ("TILES", geometry.tiles),
        ("WARPS_ALONG_OUTPUTS", geometry.warps_along_outputs),
        ("WARPS_ALONG_INPUTS", geometry.warps_along_inputs),
        ("STAGES", geometry.stages),
        ("TURNS_PER_STAGE", geometry.turns_per_stage),
        ("ROUNDS_WEIGHTS", int(geometry.rounds_weights)),
        ("MIN_BLOCKS", geometry.min_blocks),
        ("IS_NARROW", int(geometry.is_narrow(call))),
        ("STORED_TOGETHER", 1 if (call.outputs // 2 if call.is_gated else call.outputs) % 4 else 4),
    )
    blocks = geometry.blocks(call)
    shared = geometry.shared_blocks(call, chip)
    sharers = geometry.sharers if shared else 0
    # Along the turns sharers and blocks follow one another: so many pairs of both meet.
    sums = (shared + sharers) * geometry.warps_along_inputs * geometry.block_rows * geometry.block_outputs
    return LaunchPlan(
        Specialisation("linear_mma.cu", "linear_mma", definitions),
        grid=(blocks - shared + sharers, 1, 1),
        block=(geometry.warps * 32, 1, 1),
        arguments=(
            *WEIGHT_BUFFERS,
            "x",
            "inputs",
            *EPILOGUE_BUFFERS,
            "partials",
            "arrivals",
            Integer(call.rows),
            Integer(call.outputs),
            Integer(call.columns),
            Integer(blocks - shared),
            Integer(blocks),
            Integer(sharers),
        ),
        shared_bytes=geometry.shared_bytes,
        scratch=parts_scratch(4 * max(1, sums), max(1, shared)),
        geometry=geometry,
        begins_early=True,
    )


def candidates_linear_mma(
    form: SlabbedForm, call: LinearCall, chip: ChipLimits, *, is_permuted: bool = False
) -> list[LaunchPlan]:
    """What is worth measuring, the default first: what the model likes, with more and less on its way."""
    ordered = list(_geometries(form, call, chip))
    best = [*ordered[:12], *[each for each in ordered if each.rounds_weights][:4]]
    others = [replace(each, turns_per_stage=turns) for each in best[:2] for turns in (2, 4)]
    others += [replace(each, stages=stages) for each in best[:2] for stages in (2, 6)]
    fitting = [each for each in dict.fromkeys((*best, *others)) if _fits(each, form, chip)]
    return [
        plan_linear_mma(form, call, chip, each, is_permuted=is_permuted) for each in fitting[:_CANDIDATES]
    ]


def _fits(geometry: MmaGeometry, form: SlabbedForm, chip: ChipLimits) -> bool:
    """Whether its shared memory is there, and registers so that nothing is spilled."""
    available = _REGISTERS // 32 // (-(-geometry.warps * geometry.min_blocks // _SCHEDULERS) * _SCHEDULERS)
    # What compilers need beyond the sum below grows with what they may have.
    available = min(available - available // 12, 215) if available > 128 else available
    return (
        geometry.shared_bytes * geometry.min_blocks <= chip.shared_bytes_per_block
        and _registers(geometry, form, chip) <= available
    )


def _registers(geometry: MmaGeometry, form: SlabbedForm, chip: ChipLimits) -> int:
    """A thread's: sums in one level or two, fragments, two slabs' codes and numbers, inputs on their way."""
    tiles, rows = geometry.tiles, geometry.block_rows
    is_scaled = geometry.rounds_weights or 0 < form.super_size < SLAB
    has_slab_offsets = form.has_offsets and not is_scaled
    sums = (1 if is_scaled else 2) * rows * tiles // 4 + (rows // 2 if has_slab_offsets else 0)
    numbers = 2 if form.integers is Integers.NONE else 9 if has_slab_offsets else 5
    inputs = 0 if chip.compute_capability >= _COPIES_PAST_REGISTERS else 12
    return 30 + sums + tiles * (4 + 2 * form.bits + numbers) + inputs


def _geometries(form: SlabbedForm, call: LinearCall, chip: ChipLimits) -> Iterator[MmaGeometry]:
    """Those that fit, the fastest by a model first; of equals the one of fewer warps."""
    fitting: list[MmaGeometry] = []
    for rows in [each for each in _ROWS if each >= call.rows] or _ROWS[-1:]:
        fitting = [each for each in _possible(rows, form, call, chip) if _fits(each, form, chip)]
        if fitting:
            break
    yield from sorted(fitting, key=lambda each: (_modelled_cycles(each, form, call, chip), each.warps))


def _possible(
    block_rows: int, form: SlabbedForm, call: LinearCall, chip: ChipLimits
) -> Iterator[MmaGeometry]:
    slabs = -(-call.columns // SLAB)
    is_fine = 0 < form.super_size < SLAB
    may_round = form.integers is Integers.NONE and not is_fine and matrix_dtype(call) == torch.float16
    # With few rows two levels cost less.
    ways: tuple[bool, ...] = (False, True) if block_rows <= 32 else (True, False)
    if not may_round or block_rows < LEAST_ROUNDED_ROWS:
        ways = (False,)
    for warps, along_inputs, tiles, rounds in product(_WARPS[block_rows], range(1, 17), (2, 4, 6), ways):
        if along_inputs > min(warps, slabs):
            continue
        each = MmaGeometry(
            block_rows,
            tiles,
            warps // along_inputs,
            along_inputs,
            stages=4 if chip.compute_capability >= _COPIES_PAST_REGISTERS else 3,
            rounds_weights=rounds,
            min_blocks=max(1, _WARPS[block_rows][0] // warps),
        )
        if each.outputs_used(call) < 1:
            continue
        yield each
        left = each.blocks(call) % chip.multiprocessors
        # As many of each block's, so that none has turns at two; with many rows that costs less
        # than idle multiprocessors.
        most = min(each.turns(call), chip.multiprocessors * each.min_blocks // left if left else 1)
        sharers = {left * parts for parts in {most, most // each.min_blocks} if parts > 1}
        if block_rows >= 32 and left < chip.multiprocessors <= left * each.turns(call):
            sharers.add(chip.multiprocessors)
        for count in sorted(sharers):
            yield replace(each, sharers=count)


def _modelled_cycles(geometry: MmaGeometry, form: SlabbedForm, call: LinearCall, chip: ChipLimits) -> float:
    """The busiest multiprocessor's: instructions, its memory traffic, and what all ask of the caches."""
    shared = geometry.shared_blocks(call, chip)
    whole, turns = geometry.blocks(call) - shared, geometry.turns(call)
    # Turns of the multiprocessor that has most, and blocks of threads that it has at a time.
    sharers = geometry.sharers if shared else 0
    most_turns = -(-whole // chip.multiprocessors) * turns
    most_turns += -(-shared * turns // chip.multiprocessors) if shared else 0
    blocks = -(-whole // chip.multiprocessors) + -(-sharers // chip.multiprocessors)
    resident = min(blocks, geometry.min_blocks)
    unpacking = 85 if geometry.rounds_weights else 50
    # Instructions: to unpack a tile, products and sums of 8 rows, what a turn takes beside.
    operands = geometry.block_rows // 8
    instructions = geometry.tiles * (unpacking + 11 * operands) + 12 * operands + 60
    inputs = geometry.warps_along_inputs * min(geometry.block_rows, call.rows) * SLAB * 2
    weights = geometry.warps * geometry.tiles * TILE_OUTPUTS * SLAB * form.bits // 8
    # What is on its way in a latency is what there is in it, up to the chip's rate.
    rate = min(_BYTES_PER_CYCLE, resident * weights / _LATENCY_CYCLES)
    turn = max(geometry.warps / 3 * instructions, weights / rate + inputs / _CACHED_BYTES_PER_CYCLE)
    sums = geometry.block_rows * geometry.block_outputs
    ends = 1500 * blocks / resident + blocks * geometry.warps_along_inputs * sums / 32
    if shared:
        ends += 1500 + 4 * geometry.warps_along_inputs * sums * (sharers / shared + 1) / 12
    return most_turns * turn + ends
