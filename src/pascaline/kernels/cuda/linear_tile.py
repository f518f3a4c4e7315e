"""Launches of linear_tile.cu: many rows times a packed weight by integer dot products."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, WEIGHT_BUFFERS, LinearCall
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.specialisation import (
    ChipLimits,
    Integer,
    LaunchPlan,
    Specialisation,
    parts_scratch,
)
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS, Integers

_WARP_ROWS = _WARP_OUTPUTS = 32
_CANDIDATES = 18
_DOT_PRODUCTS_FROM = (6, 1)
_MOST_BLOCKS_ALONG_OUTPUTS = 65535
_MOST_STATIC_SHARED_BYTES = 48 << 10

TILE_SCALE_GROUPS = {1: 64, 2: 128}
"""By planes, the inputs of a scale that the ways with tiles use.

Two planes err as little with scales of 128 as with finer ones. One plane errs by a quarter more with 128 than
with 64, whose conversions cost a twentieth of the main loop; those of 32 would cost three times that, and
registers that sm_61 does not have.
"""


@dataclass(frozen=True)
class TileGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    warps_along_rows, warps_along_outputs : of a block; each makes 32 × 32 of y.
    min_blocks : that a multiprocessor is to hold: a bound on registers.
    splits : parts that K is cut into, each a block's; the last to finish adds them up.
    """

    warps_along_rows: int
    warps_along_outputs: int
    min_blocks: int
    splits: int = 1

    @property
    def warps(self) -> int:
        return self.warps_along_rows * self.warps_along_outputs

    @property
    def block_rows(self) -> int:
        return self.warps_along_rows * _WARP_ROWS

    @property
    def block_outputs(self) -> int:
        return self.warps_along_outputs * _WARP_OUTPUTS

    def grid(self, call: LinearCall) -> tuple[int, int, int]:
        return -(-call.rows // self.block_rows), -(-call.outputs // self.block_outputs), self.splits

    def shared_bytes(self, form: SlabbedForm, inputs: InputForm) -> int:
        """Of a block, all of it static: two slabs of weights with their numbers, two halves of inputs."""
        weight_groups = SLAB // _weight_group(form)
        groups = max(weight_groups, SLAB // inputs.scale_group)
        words = 32 * self.block_outputs + 32
        words += weight_groups * self.block_outputs + SLAB // inputs.scale_group * self.block_rows
        words += weight_groups * self.block_outputs + groups * self.block_rows if _has_totals(form) else 8
        return 4 * (2 * words + 2 * (16 * self.block_rows + 32) + 4)


_TIGHT = (TileGeometry(4, 2, 2),)
_TIGHT_OF_SLABS = (TileGeometry(2, 4, 2), TileGeometry(4, 4, 1))
"""16 warps in a multiprocessor, which 128 registers a thread allow, in machine code before 7.0.

That suffices where groups are whole slabs; of groups of 64 inputs, the first alone spills nothing.
"""

_ROOMY = (TileGeometry(2, 2, 3), TileGeometry(1, 4, 3), TileGeometry(1, 2, 6))
"""12 warps of 168 registers, with which nothing spills."""

_NARROW = (TileGeometry(4, 1, 3), TileGeometry(2, 1, 6))
"""The fewer outputs a block has, the more inputs a thread has on their way, in registers."""


def plan_linear_tile(
    form: SlabbedForm,
    call: LinearCall,
    chip: ChipLimits,
    inputs: InputForm,
    geometry: TileGeometry | None = None,
) -> LaunchPlan:
    """A launch for `call.rows` rows, 17 and more being what it is good for.

    Buffers: "input_codes", "input_scales", "input_sums"; the weight's ("codes", "scales", "integers",
    "integers_high", "zeros"); `EPILOGUE_BUFFERS`.

    Raises
    ------
    UnsupportedError : the chip has no integer dot product; the input is not quantised; a gated product whose
        halves are no whole tiles.
    """
    if chip.compute_capability < _DOT_PRODUCTS_FROM:
        raise UnsupportedError(f"integer dot products on {chip.architecture}", expected="sm_61 or newer")
    if not inputs.is_quantised:
        raise UnsupportedError("inputs that quantise_input did not make", expected="signed bytes")
    if call.is_gated and call.outputs % (2 * TILE_OUTPUTS):
        raise UnsupportedError(
            f"a gated product of {call.outputs} outputs", expected=f"a multiple of {2 * TILE_OUTPUTS}"
        )
    if geometry is None:
        geometry = _geometries(form, call, chip, inputs)[0]
    grid = geometry.grid(call)
    tiles = grid[0] * grid[1]
    partial_bytes = 4 * geometry.block_rows * geometry.block_outputs * tiles * geometry.splits
    return LaunchPlan(
        Specialisation(
            "linear_tile.cu",
            "linear_tile",
            (
                *form.definitions,
                *call.definitions,
                *inputs.definitions,
                ("WARPS_M", geometry.warps_along_rows),
                ("WARPS_N", geometry.warps_along_outputs),
                ("MIN_BLOCKS", geometry.min_blocks),
            ),
        ),
        grid=grid,
        block=(32 * geometry.warps, 1, 1),
        arguments=(
            *("input_codes", "input_scales", "input_sums"),
            *WEIGHT_BUFFERS,
            *EPILOGUE_BUFFERS,
            *("partials", "arrivals"),
            *map(Integer, (call.rows, call.outputs, -(-call.columns // SLAB))),
        ),
        scratch=parts_scratch(partial_bytes, tiles) if geometry.splits > 1 else {},
        geometry=geometry,
    )


def candidates_linear_tile(
    form: SlabbedForm, call: LinearCall, chip: ChipLimits, inputs: InputForm
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    best = _geometries(form, call, chip, inputs)[:_CANDIDATES]
    tight = (*_TIGHT, _TIGHT_OF_SLABS[0])
    others = [replace(each, splits=splits) for each in tight for splits in sorted({1, best[0].splits})]
    # More registers, fewer blocks: for chips that need fewer warps to hide latency.
    others += [replace(best[0], min_blocks=2)]
    fitting = [each for each in dict.fromkeys((*best, *others)) if _fits(each, form, call, chip, inputs)]
    return [plan_linear_tile(form, call, chip, inputs, each) for each in fitting]


def _geometries(
    form: SlabbedForm, call: LinearCall, chip: ChipLimits, inputs: InputForm
) -> list[TileGeometry]:
    """Those that fit, the fastest by a model first."""
    slabs = -(-call.columns // SLAB)
    group = min(_weight_group(form), inputs.scale_group)
    tiles: tuple[TileGeometry, ...] = _ROOMY
    # For factors of less, or sums of inputs, a thread of 128 registers has too few.
    if group >= SLAB // 2 and not _has_totals(form):
        tiles += _NARROW
        if chip.compute_capability < (7, 0):
            tiles += _TIGHT + (_TIGHT_OF_SLABS if group == SLAB else ())
    possible = [
        replace(tile, splits=splits)
        for tile in tiles
        if _fits(tile, form, call, chip, inputs)
        for splits in (1, 2, 3, 4, 6, 8, 12, 16)
        if splits == 1 or (slabs >= 2 * splits and _tiles(tile, call) < 4 * chip.multiprocessors)
    ]
    return sorted(possible, key=lambda each: _modelled_slots(each, slabs, call, chip, inputs))


def _fits(
    geometry: TileGeometry, form: SlabbedForm, call: LinearCall, chip: ChipLimits, inputs: InputForm
) -> bool:
    shared = min(chip.shared_bytes_per_block, _MOST_STATIC_SHARED_BYTES)
    return (
        geometry.shared_bytes(form, inputs) <= shared and geometry.grid(call)[1] <= _MOST_BLOCKS_ALONG_OUTPUTS
    )


def _tiles(geometry: TileGeometry, call: LinearCall) -> int:
    rows, outputs, _ = geometry.grid(call)
    return rows * outputs


def _modelled_slots(
    geometry: TileGeometry, slabs: int, call: LinearCall, chip: ChipLimits, inputs: InputForm
) -> float:
    """Issue slots of the busiest multiprocessor: a thread's instructions, stretched where warps are few."""
    blocks = -(-_tiles(geometry, call) * geometry.splits // chip.multiprocessors)
    # Products and reads of a plane, its share of inputs, unpacking.
    per_slab = inputs.planes * (1180 + 20 * 64 / geometry.block_outputs) + 60 * 128 / geometry.block_rows
    turns = -(-slabs // geometry.splits)
    per_block = turns * per_slab + 600 + (500 + 100 * geometry.splits if geometry.splits > 1 else 0)
    resident = min(blocks, geometry.min_blocks) * geometry.warps
    return blocks * geometry.warps * per_block * max(1.0, 10 / resident) * (1.06 if resident < 16 else 1.0)


def _weight_group(form: SlabbedForm) -> int:
    """Inputs that share a weight's scale and offset, within a slab."""
    if form.integers in (Integers.SCALES_8_8, Integers.SCALES_OFFSETS_4, Integers.SCALES_6_6):
        return 16
    if form.integers is not Integers.NONE:
        return 32
    return form.super_size if 0 < form.super_size < SLAB else SLAB


def _has_totals(form: SlabbedForm) -> bool:
    """Whether sums of inputs are multiplied too: by offsets, or by zeros that a byte has no room for."""
    return form.has_offsets or (form.bits == 8 and (form.zero != 0 or form.zero_bits != 0))
