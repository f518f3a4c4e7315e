"""Launches of linear_simt.cu: many rows times a weight in fp32, on chips that have nothing faster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, NUMBER_TYPES, WEIGHT_BUFFERS, LinearCall
from pascaline.kernels.cuda.specialisation import (
    ChipLimits,
    Integer,
    LaunchPlan,
    Scratch,
    Specialisation,
    bytes_of,
    parts_scratch,
)
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.limits import PARTIAL_BYTES
from pascaline.workload.slab_form import TILE_OUTPUTS

_QUARTER = 32
_PIECE = 8
_BLOCK_OUTPUTS = 128
_WARPS_ALONG_OUTPUTS = 4
_MOST_BLOCKS_ALONG_OUTPUTS = 65535
_MOST_SPLITS = 16
_CANDIDATES = 22


@dataclass(frozen=True)
class SimtGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    thread_rows : rows of a thread, 4 or 8; it has 8 outputs.
    warps_along_rows : of a block, each of 8 · `thread_rows` rows; along its 128 outputs there are 4.
    min_blocks : that a multiprocessor is to hold: a bound on registers.
    splits : parts that K is cut into, each a block's; the last to finish adds them up.
    """

    thread_rows: int
    warps_along_rows: int
    min_blocks: int
    splits: int = 1

    @property
    def warps(self) -> int:
        return self.warps_along_rows * _WARPS_ALONG_OUTPUTS

    @property
    def block_rows(self) -> int:
        return 8 * self.thread_rows * self.warps_along_rows

    def grid(self, call: LinearCall) -> tuple[int, int, int]:
        return -(-call.rows // self.block_rows), -(-call.outputs // _BLOCK_OUTPUTS), self.splits


_TILES = (SimtGeometry(8, 1, 3), SimtGeometry(4, 1, 4))
"""Nothing spills: 12 warps in a multiprocessor, with 168 registers, or 16 with 128 for half the rows."""

_SHORT, _TALL = SimtGeometry(4, 2, 2), SimtGeometry(8, 2, 2)
"""16 warps with 128 registers in two blocks. Tall ones, of which nothing spills from 7.0 to 9.0, are the
fastest there for many rows; up to 6.x both are modelled to be slower than 12 warps of three blocks."""

_TIGHT = SimtGeometry(8, 1, 4)
"""16 warps with 128 registers, of which some forms of packed weights spill a few."""


def plan_linear_simt(
    weight: SlabbedForm | torch.dtype,
    call: LinearCall,
    chip: ChipLimits,
    geometry: SimtGeometry | None = None,
    *,
    has_permutation: bool = False,
) -> LaunchPlan:
    """A launch for `call.rows` rows, 17 and more being what it is good for.

    Buffers: "x"; "inputs" where the input is permuted; a packed weight's ("codes", "scales", "integers",
    "integers_high", "zeros"), or "weight" (outputs, columns) of a dense one of the given dtype;
    `EPILOGUE_BUFFERS`.

    Raises
    ------
    UnsupportedError : a gated product whose halves are no whole tiles.
    """
    if call.is_gated and call.outputs % (2 * TILE_OUTPUTS):
        raise UnsupportedError(
            f"a gated product of {call.outputs} outputs", expected=f"a multiple of {2 * TILE_OUTPUTS}"
        )
    if geometry is None:
        geometry = _geometries(_own_tiles(chip), call, chip)[0]
    if isinstance(weight, SlabbedForm):
        weight_definitions = (("IS_DENSE", 0), *weight.definitions)
        buffers = WEIGHT_BUFFERS
    else:
        weight_definitions = (("IS_DENSE", 1), ("WEIGHT_TYPE", NUMBER_TYPES[weight]))
        buffers = ("weight", *("absent",) * 4)
    return LaunchPlan(
        Specialisation(
            "linear_simt.cu",
            "linear_simt",
            (
                *weight_definitions,
                *call.definitions,
                ("HAS_PERMUTATION", int(has_permutation)),
                ("IS_VECTOR", int(call.columns % _PIECE == 0)),
                ("IS_WHOLE", int(call.columns % _QUARTER == 0)),
                ("THREAD_ROWS", geometry.thread_rows),
                ("WARPS_M", geometry.warps_along_rows),
                ("MIN_BLOCKS", geometry.min_blocks),
            ),
        ),
        grid=geometry.grid(call),
        block=(32 * geometry.warps, 1, 1),
        arguments=(
            *("x", "inputs", *buffers, *EPILOGUE_BUFFERS, "partials", "arrivals"),
            *map(Integer, (call.rows, call.outputs, call.columns)),
        ),
        scratch=_scratch(geometry, call),
        geometry=geometry,
    )


def candidates_linear_simt(
    weight: SlabbedForm | torch.dtype, call: LinearCall, chip: ChipLimits, *, has_permutation: bool = False
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    best = _geometries(_own_tiles(chip), call, chip)[0]
    others = _geometries((*_TILES, _SHORT, _TALL, _TIGHT), call, chip)[:_CANDIDATES]
    return [
        plan_linear_simt(weight, call, chip, each, has_permutation=has_permutation)
        for each in dict.fromkeys((best, *others))
    ]


def _own_tiles(chip: ChipLimits) -> tuple[SimtGeometry, ...]:
    """Those among which a default is chosen."""
    if chip.compute_capability < (7, 0):
        return _TILES
    return (*_TILES, _SHORT, _TALL) if chip.compute_capability < (10, 0) else (*_TILES, _SHORT)


def _geometries(tiles: tuple[SimtGeometry, ...], call: LinearCall, chip: ChipLimits) -> list[SimtGeometry]:
    """Those of some tiles, the fastest by a model first."""
    quarters = -(-call.columns // _QUARTER)
    if chip.compute_capability >= (12, 0):  # its machine code takes more registers for the same
        tiles = tuple(replace(each, min_blocks=2) for each in tiles)
    possible = [
        replace(tile, splits=splits)
        for tile in dict.fromkeys(tiles)
        if tile.grid(call)[1] <= _MOST_BLOCKS_ALONG_OUTPUTS
        for splits in range(1, _MOST_SPLITS + 1)
        if splits == 1
        or (
            quarters >= 4 * splits
            and _tiles(tile, call) < 8 * chip.multiprocessors
            and _is_modest(replace(tile, splits=splits), call)
        )
    ]
    return sorted(possible, key=lambda each: _modelled_slots(each, quarters, call, chip))


def _tiles(geometry: SimtGeometry, call: LinearCall) -> int:
    rows, outputs, _ = geometry.grid(call)
    return rows * outputs


def _scratch(geometry: SimtGeometry, call: LinearCall) -> dict[str, Scratch]:
    """What the parts of K leave in memory."""
    if geometry.splits == 1:
        return {}
    tiles = _tiles(geometry, call)
    return parts_scratch(4 * geometry.block_rows * _BLOCK_OUTPUTS * tiles * geometry.splits, tiles)


def _is_modest(geometry: SimtGeometry, call: LinearCall) -> bool:
    return bytes_of(_scratch(geometry, call)) <= PARTIAL_BYTES


def _modelled_slots(geometry: SimtGeometry, quarters: int, call: LinearCall, chip: ChipLimits) -> float:
    """Issue slots of the busiest multiprocessor: a thread's instructions, stretched where warps are few.

    Blocks come in rounds of as many as fit beside each other; the last round may have fewer.
    """
    blocks = -(-_tiles(geometry, call) * geometry.splits // chip.multiprocessors)
    # Of a quarter: products; reads of both operands, and x on its way to shared memory; the weight on its way
    # there. The last two are fitted to an H200's times of four tiles, 512 and 2048 rows, within 1 %.
    per_quarter = 32 * 8 * geometry.thread_rows + 270 + 180 // geometry.warps_along_rows
    turns = -(-quarters // geometry.splits)
    # Parts are written and read at some 24 bytes a clock, of which others' products hide half.
    parts = 500 + 20 * 8 * geometry.thread_rows if geometry.splits > 1 else 0
    per_block = turns * per_quarter + 600 + parts
    rounds, rest = divmod(blocks, geometry.min_blocks)
    stretched = rounds * _stretched(geometry.min_blocks * geometry.warps) + _stretched(rest * geometry.warps)
    return stretched * per_block


def _stretched(warps: int) -> float:
    """Warps that would take as long with their instructions as so many that hide each other's latency."""
    return max(warps, 10.0) if warps else 0.0
