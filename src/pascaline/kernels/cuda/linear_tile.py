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
_SHARED_BYTES, _SCHEDULERS = 96 << 10, 4
"""Of a multiprocessor of 6.1 and of 7.0; others have more or less shared memory, which matters to few."""

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
        words = 32 * self.block_outputs + (64 if self.warps_along_rows < 4 else 32)
        words += weight_groups * self.block_outputs + SLAB // inputs.scale_group * self.block_rows
        words += weight_groups * self.block_outputs + groups * self.block_rows if _has_totals(form) else 8
        return 4 * (2 * words + 2 * (16 * self.block_rows + 32) + 4)


_WIDE = (TileGeometry(4, 2, 2), TileGeometry(2, 4, 2))
_TIGHT = (*_WIDE, TileGeometry(2, 2, 4))
"""Of up to 128 registers in machine code before 7.0: 16 warps in a multiprocessor, of the small blocks 12,
since its shared memory has room for three. A round of those that is not full costs less."""

_LOW = (TileGeometry(1, 4, 3), TileGeometry(1, 2, 6))
_ROOMY = (TileGeometry(2, 2, 3), *_LOW)
"""12 warps of up to 168 registers, with which nothing spills."""

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
                ("STORED_TOGETHER", 1 if call.is_gated or call.outputs % 4 else 4),
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
    others = [replace(each, splits=splits) for each in _WIDE for splits in sorted({1, best[0].splits})]
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
        tiles = (*_TIGHT, *_LOW) if chip.compute_capability < (7, 0) else (*_ROOMY, *_NARROW)
    possible = [
        replace(tile, splits=splits)
        for tile in tiles
        if _fits(tile, form, call, chip, inputs)
        for splits in (1, 2, 3, 4, 6, 8, 12, 16)
        if splits == 1 or (slabs >= 2 * splits and _tiles(tile, call) < 4 * chip.multiprocessors)
    ]
    return sorted(possible, key=lambda each: _modelled_slots(each, form, call, chip, inputs))


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
    geometry: TileGeometry,
    form: SlabbedForm,
    call: LinearCall,
    chip: ChipLimits,
    inputs: InputForm,
) -> float:
    """Issue slots of the busiest multiprocessor: a thread's instructions, stretched where warps are few."""
    blocks = -(-_tiles(geometry, call) * geometry.splits // chip.multiprocessors)
    # Products and reads of a plane, its share of inputs, unpacking.
    per_slab = inputs.planes * (1180 + 20 * 64 / geometry.block_outputs) + 40 * 128 / geometry.block_rows
    turns = -(-call.columns // (SLAB * geometry.splits))
    per_block = turns * per_slab + 500 + (500 + 100 * geometry.splits if geometry.splits > 1 else 0)
    by_shared_memory = _SHARED_BYTES // geometry.shared_bytes(form, inputs)
    rounds, left = divmod(blocks, max(1, min(geometry.min_blocks, by_shared_memory)))
    resident = (blocks - left) // rounds if rounds else 0
    whole = rounds * resident * _stretch(resident * geometry.warps)
    return (whole + left * _stretch(left * geometry.warps)) * geometry.warps * per_block


def _stretch(warps: int) -> float:
    """Of the time that so many warps take together, where they are unevenly spread or too few.

    As the timing model of 6.1 has it; the chips after it have four schedulers, too.
    """
    if warps == 0:
        return 0.0
    of_busiest = -(-warps // _SCHEDULERS)
    return of_busiest * _SCHEDULERS / warps * {1: 1.45, 2: 1.08}.get(of_busiest, 1.0)


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
