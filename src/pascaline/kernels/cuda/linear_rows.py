"""Launches of linear_rows.cu: up to 16 rows of quantised inputs times a packed weight."""

from __future__ import annotations

from dataclasses import dataclass

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, LinearCall
from pascaline.kernels.cuda.linear_product import ROW_STEPS
from pascaline.kernels.cuda.specialisation import ChipLimits, Integer, LaunchPlan, Scratch, Specialisation
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS, Integers

MOST_ROWS = 16
_FIRST_WITH_DP4A = (6, 1)
_IN_GROUPS_OF_16 = (Integers.SCALES_8_8, Integers.SCALES_OFFSETS_4, Integers.SCALES_6_6)
_LEAST_STEPS = 4
"""Slabs of a block: fewer do not pay for what its parts cost."""


@dataclass(frozen=True)
class RowsGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    tiles : of a warp, 2 or 4: the uses of each input that is fetched from shared memory.
    warps : of a block.
    blocks : that a multiprocessor holds: a bound on registers.
    """

    tiles: int
    warps: int
    blocks: int


def plan_linear_rows(
    form: SlabbedForm,
    call: LinearCall,
    chip: ChipLimits,
    planes: int,
    geometry: RowsGeometry | None = None,
) -> LaunchPlan:
    """A launch for 1 to 16 rows of inputs in so many planes.

    Buffers: the weight's ("codes", "scales", "integers", "integers_high", "zeros"), those of
    `quantised_shapes` and `EPILOGUE_BUFFERS`.

    Raises
    ------
    UnsupportedError : more rows, a gated product whose halves are no whole tiles, or a chip without dp4a.
    """
    if chip.compute_capability < _FIRST_WITH_DP4A:
        raise UnsupportedError(f"integer dot products on {chip.architecture}", expected="sm_61 or newer")
    if call.rows > MOST_ROWS:
        raise UnsupportedError(f"{call.rows} rows at once", expected=f"at most {MOST_ROWS}")
    if call.is_gated and call.outputs % (2 * TILE_OUTPUTS):
        raise UnsupportedError(
            f"a gated product of {call.outputs} outputs", expected=f"a multiple of {2 * TILE_OUTPUTS}"
        )
    geometry = geometry or _default_geometry(form, call)
    slabs, groups = -(-call.columns // SLAB), _groups(call, geometry)
    rows, threads = compiled_rows(call.rows), 32 * geometry.warps
    blocks = min(chip.multiprocessors * geometry.blocks, max(1, groups * slabs // _LEAST_STEPS))
    return LaunchPlan(
        Specialisation(
            "linear_rows.cu",
            "linear_rows",
            (
                *form.definitions,
                *call.definitions,
                ("PLANES", planes),
                ("ROWS", rows),
                ("TILES", geometry.tiles),
                ("WARPS", geometry.warps),
                ("BLOCKS", geometry.blocks),
            ),
        ),
        grid=(blocks, 1, 1),
        block=(threads, 1, 1),
        arguments=(
            *("codes", "scales", "integers", "integers_high", "zeros"),
            *("input_codes", "input_scales", "input_sums"),
            *EPILOGUE_BUFFERS,
            *("partials", "arrivals"),
            *map(Integer, (call.rows, call.outputs, slabs)),
        ),
        scratch={
            "partials": Scratch(4 * 2 * blocks * rows * threads),
            "arrivals": Scratch(4 * groups, is_zeroed=True),
        },
        geometry=geometry,
    )


def candidates_linear_rows(
    form: SlabbedForm, call: LinearCall, chip: ChipLimits, planes: int
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    geometries = [_default_geometry(form, call)]
    for tiles in (4, 2):
        for warps, blocks in ((4, 2), (4, 3), (4, 4), (8, 1), (8, 2)):
            geometries.append(RowsGeometry(tiles, warps, blocks))
    return [plan_linear_rows(form, call, chip, planes, each) for each in dict.fromkeys(geometries)]


def compiled_rows(rows: int) -> int:
    """The rows that the kernel for `rows` is compiled for."""
    return next(step for step in ROW_STEPS if step >= rows)


def _groups(call: LinearCall, geometry: RowsGeometry) -> int:
    """Of tiles that a block's warps have at a time."""
    return -(-call.outputs // (geometry.tiles * TILE_OUTPUTS * geometry.warps))


def _default_geometry(form: SlabbedForm, call: LinearCall) -> RowsGeometry:
    """Four tiles a warp, if their sums and words leave registers for three blocks of 4 warps."""
    numbers = (
        2 if form.integers in (Integers.SCALES_8_8, Integers.SCALES_OFFSETS_4, Integers.SCALES_6_6) else 0
    )
    is_roomy = compiled_rows(call.rows) + numbers <= 8 and form.bits < 8
    return RowsGeometry(4 if is_roomy else 2, 4, 3)
