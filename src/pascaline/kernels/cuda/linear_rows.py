"""Launches of linear_rows.cu: up to 16 rows times a packed weight, by products of integers or in fp32."""

from __future__ import annotations

from dataclasses import dataclass

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, WEIGHT_BUFFERS, LinearCall
from pascaline.kernels.cuda.linear_product import ROW_STEPS
from pascaline.kernels.cuda.quantise_input import QUANTISED_BUFFERS
from pascaline.kernels.cuda.specialisation import ChipLimits, Integer, LaunchPlan, Scratch, Specialisation
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS, Integers

MOST_ROWS = 16
MATRIX_CAPABILITY = (8, 0)
"""From which on tensor cores multiply signed bytes in the shape that the kernel has."""
MATRIX_SCALE_GROUPS = {1: 64, 2: 128}
"""Inputs of a scale, by planes: tensor cores sum up all quarters of a slab, or else take zeros for some."""
_FIRST_WITH_DP4A = (6, 1)
_VOLTA = (7, 0)
_IN_GROUPS_OF_16 = (Integers.SCALES_8_8, Integers.SCALES_OFFSETS_4, Integers.SCALES_6_6)
_PIECE = 8
"""Inputs that are brought at once where they are not quantised."""
_LEAST_SLABS = 4
"""Of a block: fewer do not pay for what its parts cost."""


@dataclass(frozen=True)
class RowsGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    tiles : of a warp, 2 or 4: the uses of each input that is fetched from shared memory.
    warps : of a block.
    blocks : that a multiprocessor holds: a bound on registers.
    k_warps : of a block's warps, those that have the same tiles and neighbouring slabs, 1, 2 or 4.
    """

    tiles: int
    warps: int
    blocks: int
    k_warps: int = 1

    @property
    def group_outputs(self) -> int:
        """Of tiles that a block's warps have at a time."""
        return self.tiles * TILE_OUTPUTS * (self.warps // self.k_warps)


_GEOMETRIES = tuple(
    RowsGeometry(tiles, *shape)
    for tiles in (4, 2)
    for shape in ((4, 2), (4, 3), (4, 4), (8, 1), (8, 2), (4, 3, 2), (2, 8, 2))
)
_MATRIX_GEOMETRIES = (
    *(RowsGeometry(4, *shape) for shape in ((8, 2, 2), (4, 4, 2), (4, 4), (8, 2), (4, 3), (8, 2, 4))),
    *(RowsGeometry(2, *shape) for shape in ((8, 2), (4, 4), (8, 2, 2))),
)
"""That are worth measuring."""


def plan_linear_rows(
    form: SlabbedForm,
    call: LinearCall,
    chip: ChipLimits,
    planes: int,
    geometry: RowsGeometry | None = None,
    *,
    has_permutation: bool = False,
    by_tensor_cores: bool = False,
) -> LaunchPlan:
    """A launch for 1 to 16 rows of inputs in so many planes, or in fp32 where there are none.

    Tensor cores want inputs that have one scale for `MATRIX_SCALE_GROUPS[planes]` of them.

    Buffers: `WEIGHT_BUFFERS`, those of
    `quantised_shapes` or, of no planes, "x" and where the input is permuted "inputs", and `EPILOGUE_BUFFERS`.

    Raises
    ------
    UnsupportedError : more rows, a gated product whose halves are no whole tiles, or planes for a chip that
        has no dp4a, or no such tensor cores.
    """
    if by_tensor_cores and not planes:
        raise UnsupportedError("fp32 inputs by products of bytes", expected="one plane or two")
    if by_tensor_cores and chip.compute_capability < MATRIX_CAPABILITY:
        raise UnsupportedError(f"products of bytes on {chip.architecture}", expected="sm_80 or newer")
    if planes and chip.compute_capability < _FIRST_WITH_DP4A:
        raise UnsupportedError(f"integer dot products on {chip.architecture}", expected="sm_61 or newer")
    if call.rows > MOST_ROWS:
        raise UnsupportedError(f"{call.rows} rows at once", expected=f"at most {MOST_ROWS}")
    if call.is_gated and call.outputs % (2 * TILE_OUTPUTS):
        raise UnsupportedError(
            f"a gated product of {call.outputs} outputs", expected=f"a multiple of {2 * TILE_OUTPUTS}"
        )
    geometry = geometry or _default_geometry(form, call, chip, planes, by_tensor_cores=by_tensor_cores)
    slabs, groups = -(-call.columns // SLAB), -(-call.outputs // geometry.group_outputs)
    rows, threads = compiled_rows(call.rows), 32 * geometry.warps
    steps = groups * -(-slabs // geometry.k_warps)
    blocks = min(chip.multiprocessors * geometry.blocks, max(1, steps * geometry.k_warps // _LEAST_SLABS))
    return LaunchPlan(
        Specialisation(
            "linear_rows.cu",
            "linear_rows",
            (
                *form.definitions,
                *call.definitions,
                ("PLANES", planes),
                ("BY_TENSOR_CORES", int(by_tensor_cores)),
                *((("SCALE_GROUP", MATRIX_SCALE_GROUPS[planes]),) if by_tensor_cores else ()),
                *(() if planes else _number_definitions(call, has_permutation=has_permutation)),
                ("ROWS", rows),
                ("TILES", geometry.tiles),
                ("WARPS", geometry.warps),
                ("K_WARPS", geometry.k_warps),
                ("BLOCKS", geometry.blocks),
            ),
        ),
        grid=(blocks, 1, 1),
        block=(threads, 1, 1),
        arguments=(
            *WEIGHT_BUFFERS,
            *(QUANTISED_BUFFERS if planes else ("x", "inputs", Integer(call.columns))),
            *EPILOGUE_BUFFERS,
            *("partials", "arrivals"),
            *map(Integer, (call.rows, call.outputs, slabs, *divmod(steps, blocks))),
        ),
        scratch={
            "partials": Scratch(4 * 2 * blocks * -(-rows // geometry.k_warps) * threads),
            "arrivals": Scratch(4 * groups, is_zeroed=True),
        },
        geometry=geometry,
        begins_early=True,
    )


def candidates_linear_rows(
    form: SlabbedForm,
    call: LinearCall,
    chip: ChipLimits,
    planes: int,
    *,
    has_permutation: bool = False,
    by_tensor_cores: bool = False,
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    geometries = [
        _default_geometry(form, call, chip, planes, by_tensor_cores=by_tensor_cores),
        *(_MATRIX_GEOMETRIES if by_tensor_cores else _GEOMETRIES),
    ]
    # Each thread brings no more than one quarter of a row's plane to a step.
    step_threads = 4 * compiled_rows(call.rows) * planes
    return [
        plan_linear_rows(
            form,
            call,
            chip,
            planes,
            each,
            has_permutation=has_permutation,
            by_tensor_cores=by_tensor_cores,
        )
        for each in dict.fromkeys(geometries)
        if step_threads * each.k_warps <= 32 * each.warps
    ]


def compiled_rows(rows: int) -> int:
    """The rows that the kernel for `rows` is compiled for."""
    return next(step for step in ROW_STEPS if step >= rows)


def _number_definitions(call: LinearCall, *, has_permutation: bool) -> tuple[tuple[str, int], ...]:
    """Macros of row_numbers.cuh."""
    return (("HAS_PERMUTATION", int(has_permutation)), ("IS_VECTOR", int(call.columns % _PIECE == 0)))


def _default_geometry(
    form: SlabbedForm, call: LinearCall, chip: ChipLimits, planes: int, *, by_tensor_cores: bool
) -> RowsGeometry:
    """Four tiles a warp, if their sums and words leave registers for three blocks of 4 warps.

    On Pascal pairs of warps along K halve what blocks add up through memory, and small blocks that have one
    group each have nothing to add up.
    """
    rows = compiled_rows(call.rows)
    if by_tensor_cores:
        return RowsGeometry(4, 8, 2, k_warps=2) if rows * planes <= 16 else RowsGeometry(4, 4, 3)
    if not planes:  # 8 warps of 255 registers
        return RowsGeometry(4, 4, 3 if rows <= 4 else 2)
    has_halves = form.integers in _IN_GROUPS_OF_16
    if rows + (2 if has_halves else 0) > 8 or form.bits >= 8:
        return RowsGeometry(2, 4, 3)
    if chip.compute_capability >= _VOLTA:
        return RowsGeometry(4, 4, 3)
    small = RowsGeometry(2, 2, 8, k_warps=2)
    filled = call.outputs / small.group_outputs / (chip.multiprocessors * small.blocks)
    is_simple = form.integers is Integers.NONE and not form.has_offsets and form.bits <= 4
    if is_simple and rows * planes <= 8 and 0.9 < filled <= 1.0:
        return small
    return RowsGeometry(4, 4, 3, k_warps=2)
