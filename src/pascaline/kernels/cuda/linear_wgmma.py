"""linear_wgmma.cu: packed weights times tens of rows or more, by products of warpgroups (capability 9.0)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, WEIGHT_BUFFERS, LinearCall
from pascaline.kernels.cuda.specialisation import (
    ChipLimits,
    Integer,
    LaunchPlan,
    Specialisation,
    parts_scratch,
)
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS

WGMMA_CAPABILITY = (9, 0)
"""No other chip has these instructions."""
_PRODUCT_OUTPUTS, _WARPGROUP_THREADS = 64, 128
_WARPGROUPS = ((1, 4), (2, 2), (1, 2), (1, 3), (2, 3), (1, 1))
"""Products side by side, and warpgroups of a block."""
_BLOCK_ROWS = (16, 32, 64, 128)
_STAGES = (6, 5, 4, 3)
_MOST_SUMS = 512
"""Rows times products of a block: its sums are in registers."""
_STATIC_BYTES = 1024
"""Barriers, at most; and what a chip keeps for itself."""
# Cycles of an H200's multiprocessor, fitted to 325 measured products of int4 (rms error of 5 %): what a
# launch takes, what a block of the result takes beside its slabs, and of a slab what makes weights numbers,
# for an output (of one warpgroup as much more, that nothing hides) and for all, and what its products take,
# for 64 outputs and a row.
_LAUNCH_CYCLES, _BLOCK_CYCLES = 3500.0, 7300.0
_MAKE_CYCLES, _MAKE_ALONE, _MAKE_CYCLES_OF_ALL = 2.9, 0.56, 500.0
_MULTIPLY_CYCLES, _MULTIPLY_SHORT_ROWS = 5.3, 2.5
_NOT_SIDE_BY_SIDE = 0.61
"""Of the shorter of the two."""
_SUMS_BYTES_PER_CYCLE, _MEMORY_BYTES_PER_CYCLE = 28.6, 17.6


@dataclass(frozen=True)
class WgmmaGeometry:
    """How the product is cut up; the names are the source's definitions.

    Parameters
    ----------
    products : of 64 outputs, that a warpgroup has side by side.
    parts : blocks of threads that share a block of the result where not all multiprocessors would have one.
    """

    block_rows: int
    products: int
    warpgroups: int
    stages: int
    parts: int = 1

    @property
    def block_outputs(self) -> int:
        """Outputs of the weight that a block multiplies by."""
        return self.warpgroups * self.products * _PRODUCT_OUTPUTS

    def shared_bytes(self, form: SlabbedForm) -> int:
        """Codes and inputs on their way, and in their place sums at the end."""
        stage = self.block_outputs * SLAB * form.bits // 8 + self.block_rows * SLAB * 2
        sums = self.warpgroups * 4 * min(32, self.block_rows) * (16 * self.products + 4) * 4
        return max(self.stages * stage, sums)

    def blocks(self, call: LinearCall) -> int:
        """Blocks of the result."""
        return -(-call.rows // self.block_rows) * -(-call.outputs // self.block_outputs)

    def shared_blocks(self, call: LinearCall, chip: ChipLimits) -> int:
        """Blocks of the result that have parts: what is left when all multiprocessors have their share."""
        return self.blocks(call) % chip.multiprocessors if self.parts > 1 else 0


def plan_linear_wgmma(
    form: SlabbedForm, call: LinearCall, chip: ChipLimits, geometry: WgmmaGeometry | None = None
) -> LaunchPlan:
    """y = x · Wᵀ, of "ordered" (order_input.py) in place of x.

    Parameters
    ----------
    geometry : that of a model of the chip where it is None.

    Raises
    ------
    UnsupportedError : the chip has no such instructions, or a gated product's halves are no whole tiles.
    """
    if chip.compute_capability != WGMMA_CAPABILITY:
        raise UnsupportedError(f"products of warpgroups on {chip.architecture}")
    if call.is_gated and call.outputs % (2 * TILE_OUTPUTS):
        raise UnsupportedError(
            f"a gated product of {call.outputs} outputs", expected=f"a multiple of {2 * TILE_OUTPUTS}"
        )
    if geometry is None:
        geometry = next(_geometries(form, call, chip))
    definitions = (
        *form.definitions,
        *(each for each in call.definitions if each[0] != "INPUT_TYPE"),
        ("MATRIX_TYPE", 1),
        ("ROUNDS_WEIGHTS", int(not 0 < form.super_size < SLAB)),
        ("BLOCK_ROWS", geometry.block_rows),
        ("WARPGROUPS", geometry.warpgroups),
        ("PRODUCTS", geometry.products),
        ("STAGES", geometry.stages),
    )
    blocks = geometry.blocks(call)
    shared = geometry.shared_blocks(call, chip)
    whole = blocks - shared
    sums = shared * geometry.parts * geometry.block_rows * geometry.block_outputs
    return LaunchPlan(
        Specialisation("linear_wgmma.cu", "linear_wgmma", definitions),
        grid=(whole + shared * geometry.parts, 1, 1),
        block=(geometry.warpgroups * _WARPGROUP_THREADS, 1, 1),
        arguments=(
            *WEIGHT_BUFFERS,
            "ordered",
            *EPILOGUE_BUFFERS,
            "partials",
            "arrivals",
            *map(Integer, (call.rows, call.outputs, call.columns, whole, geometry.parts)),
        ),
        shared_bytes=geometry.shared_bytes(form),
        scratch=parts_scratch(4 * max(1, sums), max(1, shared)),
        geometry=geometry,
        begins_early=True,
    )


def candidates_linear_wgmma(form: SlabbedForm, call: LinearCall, chip: ChipLimits) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    best = list(_geometries(form, call, chip))[:10]
    others = [replace(each, stages=each.stages - 1) for each in best[:2] if each.stages > min(_STAGES)]
    return [plan_linear_wgmma(form, call, chip, each) for each in dict.fromkeys((*best, *others))]


def _geometries(form: SlabbedForm, call: LinearCall, chip: ChipLimits) -> Iterator[WgmmaGeometry]:
    """Those that fit, the fastest by a model first."""
    yield from sorted(_possible(form, call, chip), key=lambda each: _modelled_cycles(each, form, call, chip))


def _possible(form: SlabbedForm, call: LinearCall, chip: ChipLimits) -> Iterator[WgmmaGeometry]:
    slabs = -(-call.columns // SLAB)
    most_rows = next((each for each in _BLOCK_ROWS if each >= call.rows), _BLOCK_ROWS[-1])
    for block_rows, (products, warpgroups) in product(_BLOCK_ROWS, _WARPGROUPS):
        if block_rows > most_rows or block_rows * products * warpgroups > _MOST_SUMS:
            continue
        for stages in _STAGES:
            each = WgmmaGeometry(block_rows, products, warpgroups, stages)
            if each.shared_bytes(form) + _STATIC_BYTES <= chip.shared_bytes_per_block:
                break
        else:
            continue
        yield each
        left = each.blocks(call) % chip.multiprocessors
        most = min(slabs, chip.multiprocessors // left) if left else 1
        for parts in {most, most // 2}:
            if parts > 1:
                yield replace(each, parts=parts)


def _modelled_cycles(geometry: WgmmaGeometry, form: SlabbedForm, call: LinearCall, chip: ChipLimits) -> float:
    """The busiest multiprocessor's."""
    shared = geometry.shared_blocks(call, chip)
    whole, slabs = geometry.blocks(call) - shared, -(-call.columns // SLAB)
    rounds = -(-whole // chip.multiprocessors)
    part_rounds = -(-shared * geometry.parts // chip.multiprocessors)
    turns = rounds * slabs + part_rounds * (-(-slabs // geometry.parts) if shared else 0)
    outputs = geometry.block_outputs
    make = _MAKE_CYCLES * outputs * (1 + _MAKE_ALONE / geometry.warpgroups) + _MAKE_CYCLES_OF_ALL
    multiply = _MULTIPLY_CYCLES * outputs / _PRODUCT_OUTPUTS * (geometry.block_rows + _MULTIPLY_SHORT_ROWS)
    row_blocks = -(-call.rows // geometry.block_rows)
    memory = outputs * SLAB * form.bits / 8 / row_blocks / _MEMORY_BYTES_PER_CYCLE
    turn = max(make, multiply, memory) + _NOT_SIDE_BY_SIDE * min(make, multiply)
    sums = geometry.block_rows * outputs * 4
    meeting = sums * (geometry.parts + 1) / _SUMS_BYTES_PER_CYCLE + _BLOCK_CYCLES / 2 if shared else 0.0
    ends = (rounds + part_rounds) * (_BLOCK_CYCLES + sums / _SUMS_BYTES_PER_CYCLE)
    return _LAUNCH_CYCLES + turns * turn + ends + meeting
