"""Launches of linear_dense_decode.cu: a few rows times a dense weight, bound by reading it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, NUMBER_TYPES, LinearCall
from pascaline.kernels.cuda.specialisation import ChipLimits, Integer, LaunchPlan, Specialisation

MOST_ROWS = 8
_WARPS_PER_MULTIPROCESSOR = 16
"""That there should be outputs for before warps take several."""


@dataclass(frozen=True)
class DenseDecodeGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    outputs : of a warp.
    steps : vectors of 16 bytes that a lane loads of each at a time.
    warps : of a block.
    """

    outputs: int
    steps: int
    warps: int = 4


def plan_linear_dense_decode(
    call: LinearCall, weight_dtype: torch.dtype, chip: ChipLimits, geometry: DenseDecodeGeometry | None = None
) -> LaunchPlan:
    """A launch for 1 to `MOST_ROWS` rows.

    Buffers: "weight" (outputs, columns), "x" and `EPILOGUE_BUFFERS`; all begin at multiples of 16 bytes.
    """
    geometry = geometry or _default_geometry(call, chip)
    per_warp = geometry.outputs // (2 if call.is_gated else 1)
    units = call.outputs // (2 if call.is_gated else 1)
    return LaunchPlan(
        Specialisation(
            "linear_dense_decode.cu",
            "linear_dense_decode",
            (
                *call.definitions,
                ("WEIGHT_TYPE", NUMBER_TYPES[weight_dtype]),
                ("ROWS", call.rows),
                ("OUTPUTS", geometry.outputs),
                ("STEPS", geometry.steps),
                ("WARPS", geometry.warps),
            ),
        ),
        grid=(-(-units // (per_warp * geometry.warps)), 1, 1),
        block=(32 * geometry.warps, 1, 1),
        arguments=("weight", "x", *EPILOGUE_BUFFERS, Integer(call.columns), Integer(call.outputs)),
        geometry=geometry,
    )


def candidates_linear_dense_decode(
    call: LinearCall, weight_dtype: torch.dtype, chip: ChipLimits
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    geometries = [_default_geometry(call, chip)]
    geometries += [
        DenseDecodeGeometry(outputs, steps, warps)
        for outputs in (1, 2, 4)
        for steps in (2, 4, 8)
        for warps in (4, 8)
        if outputs * steps <= 16 and (outputs > 1 or not call.is_gated)
    ]
    return [plan_linear_dense_decode(call, weight_dtype, chip, each) for each in dict.fromkeys(geometries)]


def _default_geometry(call: LinearCall, chip: ChipLimits) -> DenseDecodeGeometry:
    """Several outputs a warp spare reads of the inputs, if there are enough of them."""
    warps = chip.multiprocessors * _WARPS_PER_MULTIPROCESSOR
    outputs = next((each for each in (4, 2) if call.outputs >= each * warps and call.rows >= each), 1)
    outputs = max(outputs, 2 if call.is_gated else 1)
    return DenseDecodeGeometry(outputs, max(2, 8 // outputs))
