"""Launches of linear_decode.cu: a few rows times a packed weight, bound by reading it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, WEIGHT_BUFFERS, LinearCall
from pascaline.kernels.cuda.quantise_input import QUANTISED_BUFFERS, InputForm
from pascaline.kernels.cuda.specialisation import (
    ChipLimits,
    Integer,
    LaunchPlan,
    Specialisation,
    parts_scratch,
)
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS, Integers, scales_per_slab

_MOST_WARPS = 32
_EXCHANGE_BYTES_PER_WARP = (512, 128, 256)
"""Inputs on their way between lanes, by planes; 0 for fp32."""

_COPIES_AHEAD = (8, 0)
"""Chips that copy to shared memory while they compute, from here on."""

_REGISTERS = 64 << 10
_SHARED_BYTES = 60 << 10
"""Of a multiprocessor, for all of its blocks: what every chip has, but for a little that it needs itself."""


@dataclass(frozen=True, order=True)
class DecodeGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    tiles_in_flight : that a warp loads, and sums up, at a time: 2, 4 or 8.
    k_warps, tile_warps : of a block, along K and along its tiles.
    blocks : that a multiprocessor is to hold: a bound on registers.
    ring_batches : batches of that many tiles that a warp has room for in shared memory, to which copies run
        ahead; 0: in registers, one. Chips below 8.0 cannot copy ahead.
    parts : blocks that share outputs, each with a part of the slabs.
    """

    tiles_in_flight: int
    k_warps: int
    tile_warps: int
    blocks: int
    ring_batches: int = 0
    parts: int = 1


def plan_linear_decode(
    form: SlabbedForm,
    call: LinearCall,
    chip: ChipLimits,
    inputs: InputForm,
    geometry: DecodeGeometry | None = None,
) -> LaunchPlan:
    """A launch for `call.rows` rows (1 to 4 are what it is good for).

    Buffers: `WEIGHT_BUFFERS`; "x", and "inputs" where
    it is permuted, or `QUANTISED_BUFFERS` where it is quantised already; `EPILOGUE_BUFFERS`.

    Raises
    ------
    UnsupportedError : a gated product whose halves are no whole tiles.
    """
    if call.is_gated and call.outputs % (2 * TILE_OUTPUTS):
        raise UnsupportedError(
            f"a gated product of {call.outputs} outputs", expected=f"a multiple of {2 * TILE_OUTPUTS}"
        )
    slabs, tiles = -(-call.columns // SLAB), -(-call.outputs // TILE_OUTPUTS)
    geometry = geometry or _default_geometry(form, call, chip, inputs)
    units = tiles // (2 if call.is_gated else 1)
    parts = min(geometry.parts, slabs)
    blocks = min(units, max(1, chip.multiprocessors * geometry.blocks // parts))
    own_units, own_halves = -(-units // blocks), -(-2 * units // blocks)
    has_halves = geometry.ring_batches == 0 and own_halves * _WORTH_HALVING <= 2 * own_units
    chunk, shared_bytes = _chunk(form, geometry, call, own_units, chip, inputs)
    return LaunchPlan(
        Specialisation(
            "linear_decode.cu",
            "linear_decode",
            (
                *form.definitions,
                *call.definitions,
                *inputs.definitions,
                ("QUANTISED_INPUT", int(inputs.is_quantised)),
                ("ARITHMETIC", int(inputs.planes == 0)),
                ("ROWS", call.rows),
                ("TILES_IN_FLIGHT", geometry.tiles_in_flight),
                ("K_WARPS", geometry.k_warps),
                ("TILE_WARPS", geometry.tile_warps),
                ("BLOCKS", geometry.blocks),
                ("RING_BATCHES", geometry.ring_batches),
                ("ONE_SLAB", int(-(-slabs // parts) == geometry.k_warps)),
                ("GRAIN", TILE_OUTPUTS // 2 if has_halves else TILE_OUTPUTS),
                ("PARTS", parts),
            ),
        ),
        grid=(blocks, parts, 1),
        block=(32 * geometry.k_warps * geometry.tile_warps, 1, 1),
        shared_bytes=shared_bytes,
        arguments=(
            *WEIGHT_BUFFERS,
            *(QUANTISED_BUFFERS if inputs.is_quantised else ("inputs", "x")),
            *EPILOGUE_BUFFERS,
            *("partials", "arrivals"),
            *map(Integer, (call.columns, call.outputs, tiles * TILE_OUTPUTS, slabs, chunk)),
        ),
        scratch=parts_scratch(4 * parts * call.rows * tiles * TILE_OUTPUTS, blocks) if parts > 1 else {},
        geometry=geometry,
        begins_early=True,
    )


def candidates_linear_decode(
    form: SlabbedForm, call: LinearCall, chip: ChipLimits, inputs: InputForm
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    sizes = [each for each in _WAYS[form.bits <= 3] if each[0] <= _most_tiles(call, chip)]
    if chip.compute_capability < _COPIES_AHEAD:
        sizes = [(tiles, ring) for tiles, ring in sizes if ring == 0]
    k_warps, tile_warps, _ = _block(call, chip, _MOST_WARPS // 2)
    shapes = [_block(call, chip, warps) for warps in (32, 28, 24, 20)]
    shapes.insert(1, (k_warps, tile_warps, 2))
    # Neither the last of the shapes with the first of the sizes is left out, nor the other way round.
    ranked = sorted(
        (rank + other, rank, DecodeGeometry(tiles, *shape, ring))
        for rank, shape in enumerate(dict.fromkeys(shapes))
        for other, (tiles, ring) in enumerate(sizes)
    )
    geometries = [
        _default_geometry(form, call, chip, inputs),
        *_in_parts(call, chip, ((4, 0), (2, 0))),
        *(each for _, _, each in ranked),
    ]
    plans = [plan_linear_decode(form, call, chip, inputs, each) for each in dict.fromkeys(geometries)]
    return [plan for plan in plans if plan.shared_bytes <= chip.shared_bytes_per_block][:24]


_WORTH_HALVING = 1.03
"""Times the outputs of the block that has most, from which on blocks may begin at half a tile."""

_WAYS = (
    ((4, 0), (2, 0), (4, 2), (2, 4), (4, 3), (8, 0), (8, 2)),
    ((4, 2), (4, 0), (8, 2), (4, 3), (8, 0), (2, 0), (2, 4)),
)
"""Tiles in flight and batches of a ring, the best first: of 4 bits and more, and of 2 and 3."""

_SET_UP = 3
"""What it takes a warp to take a slab's inputs, in tiles that it could multiply meanwhile."""


def _block(call: LinearCall, chip: ChipLimits, most_warps: int) -> tuple[int, int, int]:
    """Warps along K and along tiles of a block, and blocks, of so many warps a multiprocessor."""
    slabs, tiles = -(-call.columns // SLAB), -(-call.outputs // TILE_OUTPUTS)

    def seconds(choice: tuple[int, int]) -> tuple[int, int]:
        k_warps, blocks = choice
        tile_warps = max(1, most_warps // blocks // k_warps)
        own_tiles = -(-tiles // (chip.multiprocessors * blocks * tile_warps))
        return -(-slabs // k_warps) * (_SET_UP + own_tiles), k_warps * blocks

    choices = [
        (k_warps, blocks)
        for blocks in (1, 2, 3)
        for k_warps in range(1, min(slabs, most_warps // blocks) + 1)
    ]
    k_warps, blocks = min(choices, key=seconds)
    return k_warps, max(1, most_warps // blocks // k_warps), blocks


def _in_parts(call: LinearCall, chip: ChipLimits, sizes: Iterable[tuple[int, int]]) -> list[DecodeGeometry]:
    """With so many parts that a warp has one slab of its own, where a block has too many."""
    slabs, tiles = -(-call.columns // SLAB), -(-call.outputs // TILE_OUTPUTS)

    def busiest(choice: tuple[int, int]) -> int:
        """Batches of 4 tiles that warps of a multiprocessor multiply, whole or not."""
        parts, blocks = choice
        shared = max(1, chip.multiprocessors * blocks // parts)
        return -(-tiles // (4 * shared)) * -(-slabs // parts) * blocks

    choices = [
        (parts, blocks)
        for blocks in (1, 2)
        for parts in range(2, min(slabs, chip.multiprocessors) + 1)
        if 3 * _MOST_WARPS // 4 <= -(-slabs // parts) * blocks <= _MOST_WARPS
    ]
    best = sorted(choices, key=busiest)[:3] if slabs > _MOST_WARPS else []
    return [
        DecodeGeometry(tiles, -(-slabs // parts), 1, blocks, ring, parts)
        for parts, blocks in best
        for tiles, ring in sizes
    ]


def _most_tiles(call: LinearCall, chip: ChipLimits) -> int:
    """Tiles in flight, of which a block has no more than half too many."""
    tiles = -(-call.outputs // TILE_OUTPUTS)
    own_tiles = -(-tiles // chip.multiprocessors)
    return 8 if own_tiles > 4 else 4 if own_tiles > 2 else 2


def _default_geometry(
    form: SlabbedForm, call: LinearCall, chip: ChipLimits, inputs: InputForm
) -> DecodeGeometry:
    """One slab a warp, if registers allow so many warps: its inputs are then quantised once.

    If there are more, copies that run ahead bring in the next slab's tiles while its inputs are quantised.
    """
    slabs, tiles = -(-call.columns // SLAB), -(-call.outputs // TILE_OUTPUTS)
    is_short = tiles <= 5 * chip.multiprocessors
    # About as many bytes on their way whatever the bits.
    choices = {2: (8, 4, 2), 3: (8, 4, 2), 8: (2,)}.get(form.bits, (4, 2))
    choices = tuple(each for each in choices if each <= _most_tiles(call, chip)) or (2,)
    for tiles_in_flight in choices[1:] if is_short and len(choices) > 1 else choices:
        most = _most_warps(form, call.rows, inputs, tiles_in_flight, is_one_slab=True)
        shape = _block(call, chip, most)
        if shape[0] == slabs:
            return DecodeGeometry(tiles_in_flight, *shape)
    tiles_in_flight = choices[0]
    # Where a batch is more work than waiting, blocks share outputs: a warp then quantises one slab.
    if chip.compute_capability >= _COPIES_AHEAD and (form.bits <= 3 or form.table is not None):
        for geometry in _in_parts(call, chip, [(4, 0)]):
            most = _most_warps(form, call.rows, inputs, geometry.tiles_in_flight, is_one_slab=True)
            if inputs.planes and geometry.k_warps * geometry.blocks <= most:
                return geometry
    # fp32 has no inputs to quantise meanwhile; and a ring takes whole tiles, of which short weights have few
    # a block.
    if chip.compute_capability >= _COPIES_AHEAD and (inputs.planes or not is_short):
        most = _most_warps(form, call.rows, inputs, tiles_in_flight, has_ring=True)
        k_warps, tile_warps, blocks = _block(call, chip, most)
        geometry = DecodeGeometry(tiles_in_flight, k_warps, tile_warps, blocks, ring_batches=2)
        plan = plan_linear_decode(form, call, chip, inputs, geometry)
        if plan.shared_bytes * blocks <= chip.shared_bytes_per_block:
            return geometry
    most = _most_warps(form, call.rows, inputs, tiles_in_flight)
    return DecodeGeometry(tiles_in_flight, *_block(call, chip, most))


def _most_warps(
    form: SlabbedForm,
    rows: int,
    inputs: InputForm,
    tiles_in_flight: int,
    *,
    has_ring: bool = False,
    is_one_slab: bool = False,
) -> int:
    """Of a multiprocessor, by the registers that a thread needs: inputs, and what ptxas was seen to add."""
    registers = rows * ((32 if inputs.planes == 0 else 8 * inputs.planes) + tiles_in_flight)
    if has_ring:
        registers += 40 + 8 * (form.bits in (5, 6)) + 4 * (rows - 1)
    else:
        is_fine = 0 < form.super_size < SLAB or form.integers is not Integers.NONE
        numbers = len(_number_bytes(form)) * (tiles_in_flight if is_fine else 1)
        registers += (32 if is_one_slab else 40) + tiles_in_flight * form.bits + numbers
    # They are handed out to four warps at a time, 8 a thread.
    return max(8, min(_MOST_WARPS, _REGISTERS // 32 // (-(-registers // 8) * 8) // 4 * 4))


def _ring_bytes(form: SlabbedForm, geometry: DecodeGeometry) -> int:
    """Of a warp: WeightStream::SHARED_BYTES."""
    pieces = [SLAB * form.bits, *_number_bytes(form)]
    batch = sum(-(-geometry.tiles_in_flight * each // 16) * 16 for each in pieces)
    return geometry.ring_batches * batch


def _number_bytes(form: SlabbedForm) -> list[int]:
    """Of a tile: scales, integers, their upper bits, zeros."""
    entries = TILE_OUTPUTS * scales_per_slab(form.super_size)
    found = [entries * form.scale_dtype.itemsize * (2 if form.has_offsets else 1)]
    if form.integers is not Integers.NONE:
        is_wide = form.integers in (Integers.SCALES_8_8, Integers.SCALES_OFFSETS_4)
        found.append(TILE_OUTPUTS * 4 * (2 if is_wide else 1))
    if form.integers in (Integers.SCALES_6_6, Integers.SCALE_OFFSET_6):
        found.append(TILE_OUTPUTS * 4)
    if form.zero_bits:
        found.append(entries * form.zero_bits // 8)
    return found


def _chunk(
    form: SlabbedForm,
    geometry: DecodeGeometry,
    call: LinearCall,
    units: int,
    chip: ChipLimits,
    inputs: InputForm,
) -> tuple[int, int]:
    """Tiles of a block (or pairs of gate and up) whose sums are held at a time, and shared memory's bytes."""
    kinds = 2 if call.is_gated else 1
    warps = geometry.k_warps * geometry.tile_warps
    exchange = 0 if inputs.is_quantised else _EXCHANGE_BYTES_PER_WARP[inputs.planes]
    fixed = warps * (_ring_bytes(form, geometry) + exchange)

    def nbytes(chunk: int, buffers: int) -> int:
        return fixed + buffers * 4 * geometry.k_warps * (call.rows * kinds * chunk * TILE_OUTPUTS + 8)

    # Multiples of 4 keep four warps' sums in different banks.
    step = max(4, geometry.tiles_in_flight // kinds * geometry.tile_warps)
    limit = min(
        chip.shared_bytes_per_block, max(_SHARED_BYTES, chip.shared_bytes_per_block) // geometry.blocks
    )
    whole = -(-units // 4) * 4
    if nbytes(whole, 1) <= limit:
        return whole, nbytes(whole, 1)
    most = step
    while nbytes(most + step, 2) <= limit:
        most += step
    chunks = -(-units // most)
    chunk = -(-units // (chunks * step)) * step
    return chunk, nbytes(chunk, 2)
