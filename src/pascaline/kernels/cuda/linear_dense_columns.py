"""Launches of linear_dense_columns.cu: one row times a dense weight, whose columns are the threads'."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import EPILOGUE_BUFFERS, NUMBER_TYPES, LinearCall
from pascaline.kernels.cuda.specialisation import ChipLimits, Integer, LaunchPlan, Specialisation

MOST_COLUMNS = 32768
"""A thread has up to eight vectors of a row, 16 of fp32."""
_VECTOR_BYTES = 16
_WARPS = range(8, 17)


@dataclass(frozen=True)
class DenseColumnsGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    outputs : rows of the weight that are multiplied at a time; with gates, of both.
    warps : of a block.
    blocks : of a multiprocessor.
    """

    outputs: int
    warps: int
    blocks: int


def plan_linear_dense_columns(
    call: LinearCall,
    weight_dtype: torch.dtype,
    chip: ChipLimits,
    geometry: DenseColumnsGeometry | None = None,
) -> LaunchPlan:
    """A launch for one row of fp32.

    Buffers: "weight" (outputs, columns), "x" and `EPILOGUE_BUFFERS`; all begin at multiples of 16 bytes.

    Raises
    ------
    ShapeError : other inputs, or rows of the weight that are longer or of no whole vectors.
    """
    if why := refusal_of_columns(call, weight_dtype):
        raise ShapeError(f"{call}: {why}")
    geometry = geometry or _default_geometry(call, weight_dtype)
    units = call.outputs // (2 if call.is_gated else 1)
    return LaunchPlan(
        Specialisation(
            "linear_dense_columns.cu",
            "linear_dense_columns",
            (
                *call.definitions,
                ("WEIGHT_TYPE", NUMBER_TYPES[weight_dtype]),
                ("OUTPUTS", geometry.outputs),
                ("STEPS", _steps(call, weight_dtype, geometry.warps)),
                ("WARPS", geometry.warps),
                ("BLOCKS", geometry.blocks),
            ),
        ),
        grid=(min(units, chip.multiprocessors * geometry.blocks), 1, 1),
        block=(32 * geometry.warps, 1, 1),
        arguments=("weight", "x", *EPILOGUE_BUFFERS, Integer(call.columns), Integer(call.outputs)),
        geometry=geometry,
        begins_early=True,
    )


def refusal_of_columns(call: LinearCall, weight_dtype: torch.dtype) -> str | None:
    """Why it cannot, None if it can."""
    if call.rows != 1 or call.input_dtype != torch.float32:
        return "it takes one row of fp32"
    if call.columns % _vector(weight_dtype) or call.columns > MOST_COLUMNS:
        return f"it takes rows of whole vectors of {_VECTOR_BYTES} bytes, and {MOST_COLUMNS} columns at most"
    return None


def candidates_linear_dense_columns(
    call: LinearCall, weight_dtype: torch.dtype, chip: ChipLimits
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    default = _default_geometry(call, weight_dtype)
    geometries = [default]
    for warps in dict.fromkeys((default.warps, default.warps // 2, 16, 8)):
        steps = _steps(call, weight_dtype, warps)
        for blocks in (1, 2, 4):
            geometries += [
                DenseColumnsGeometry(outputs, warps, blocks)
                for outputs in (1, 2, 4, 8)
                if outputs > call.is_gated and _fits(outputs, steps, warps, blocks, weight_dtype)
            ]
    return [plan_linear_dense_columns(call, weight_dtype, chip, each) for each in dict.fromkeys(geometries)]


def _vector(weight_dtype: torch.dtype) -> int:
    return _VECTOR_BYTES // weight_dtype.itemsize


def _steps(call: LinearCall, weight_dtype: torch.dtype, warps: int) -> int:
    return -(-call.columns // (_vector(weight_dtype) * 32 * warps))


def _fits(outputs: int, steps: int, warps: int, blocks: int, weight_dtype: torch.dtype) -> bool:
    """Inputs, two batches of weights, and what else a thread has, in its share of 65536 registers."""
    needed = steps * _vector(weight_dtype) + 2 * 4 * outputs * steps + outputs + 24
    return needed <= min(255, 65536 // (32 * warps * blocks)) and 32 * warps * blocks <= 2048


def _default_geometry(call: LinearCall, weight_dtype: torch.dtype) -> DenseColumnsGeometry:
    """The block whose threads have the fewest vectors in vain, and as many outputs as its registers hold."""
    vectors = call.columns // _vector(weight_dtype)
    warps = min(_WARPS, key=lambda each: (_steps(call, weight_dtype, each) * 32 * each - vectors, -each))
    steps = _steps(call, weight_dtype, warps)
    least = 2 if call.is_gated else 1
    for blocks, outputs in ((2, 4), (2, 2), (1, 4), (1, 2)):
        if _fits(outputs, steps, warps, blocks, weight_dtype):
            return DenseColumnsGeometry(outputs, warps, blocks)
    return DenseColumnsGeometry(least, warps, 1)
