"""dequantise.cu: a packed weight, or some of its outputs, as a dense matrix."""

from __future__ import annotations

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS

_WARPS = 8
_TILES = 4


def plan_dequantise(
    form: SlabbedForm,
    outputs: int,
    columns: int,
    dtype: torch.dtype,
    *,
    start: int = 0,
    stop: int | None = None,
    warps: int = _WARPS,
    tiles: int = _TILES,
) -> LaunchPlan:
    """Outputs `start`…`stop` of a weight (outputs, columns) to `dense`, (stop − start, columns) of `dtype`.

    Columns are in the order that the weight stores its inputs in. The kernel runs on every chip.

    Parameters
    ----------
    start : a multiple of 8.
    warps, tiles : the block's warps, and what one of them takes at once.

    Raises
    ------
    ShapeError : there is nothing to do, or `start` is in the middle of a tile.
    """
    stop = outputs if stop is None else stop
    if not 0 <= start < stop <= outputs or start % TILE_OUTPUTS or columns < 1:
        raise ShapeError(
            f"outputs {start} to {stop} of {outputs} × {columns}",
            expected=f"some, from a multiple of {TILE_OUTPUTS} on",
        )
    definitions = (
        *form.definitions,
        ("OUTPUT_TYPE", NUMBER_TYPES[dtype]),
        ("TILES", tiles),
        ("WARPS", warps),
        ("IS_ALIGNED", int(columns * dtype.itemsize % 16 == 0)),
    )
    slabs = -(-columns // SLAB)
    return LaunchPlan(
        Specialisation("dequantise.cu", "dequantise", definitions),
        grid=(-(-slabs // warps), -(-(stop - start) // (TILE_OUTPUTS * tiles)), 1),
        block=(warps * 32, 1, 1),
        arguments=(
            "codes",
            "scales",
            "integers",
            "integers_high",
            "zeros",
            "dense",
            Integer(start),
            Integer(stop),
            Integer(outputs),
            Integer(columns),
        ),
    )


def candidates_dequantise(
    form: SlabbedForm, outputs: int, columns: int, dtype: torch.dtype
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    shapes = dict.fromkeys(
        [(_WARPS, _TILES), *((warps, tiles) for warps in (4, 8) for tiles in (1, 2, 4, 8))]
    )
    return [
        plan_dequantise(form, outputs, columns, dtype, warps=warps, tiles=tiles) for warps, tiles in shapes
    ]
