"""The form that a linear's kernels take their input in, and launches of quantise_input.cu, which makes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.specialisation import Integer, LaunchPlan, Specialisation
from pascaline.workload.slab_form import SLAB

_WARPS = 8

QUANTISED_BUFFERS = ("input_codes", "input_scales", "input_sums")


@dataclass(frozen=True)
class InputForm:
    """How inputs are multiplied.

    Parameters
    ----------
    planes : signed bytes that make an input's integer, 2 (exact) or 1 (fast); 0: fp32 arithmetic.
    scale_group : inputs of a scale, 32, 64 or 128.
    has_permutation : they are gathered by `Slabbed.inputs`.
    is_quantised : quantise_input, or another producer, made "input_codes", "input_scales" and "input_sums" of
        them. Otherwise "x" is read as it is.
    """

    planes: int = 2
    scale_group: int = 32
    has_permutation: bool = False
    is_quantised: bool = False

    def __post_init__(self) -> None:
        if self.planes not in (0, 1, 2) or self.scale_group not in (32, 64, 128):
            raise ShapeError(f"{self.planes} planes and scales of {self.scale_group} inputs")
        if self.is_quantised and not self.planes:
            raise ShapeError("quantised inputs without planes")

    @property
    def definitions(self) -> tuple[tuple[str, int], ...]:
        """Macros of slab_input.cuh."""
        return (
            ("PLANES", max(1, self.planes)),
            ("SCALE_GROUP", self.scale_group),
            ("HAS_PERMUTATION", int(self.has_permutation and not self.is_quantised)),
        )


def quantised_shapes(rows: int, columns: int, planes: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each buffer of a quantised input."""
    slabs = -(-columns // SLAB)
    return {
        "input_codes": ((slabs, rows, planes, SLAB), torch.int8),
        "input_scales": ((slabs, rows, 4), torch.float32),
        "input_sums": ((slabs, rows, 8), torch.int32),
    }


def plan_quantise_input(
    rows: int,
    columns: int,
    dtype: torch.dtype,
    planes: int,
    scale_group: int,
    *,
    has_permutation: bool = False,
) -> LaunchPlan:
    """Buffers: "x" (rows, columns), "inputs" where permuted, and those of `quantised_shapes`."""
    if min(rows, columns) < 1:
        raise ShapeError(f"{rows} × {columns} inputs to quantise")
    form = InputForm(planes, scale_group, has_permutation)
    slabs = -(-columns // SLAB)
    return LaunchPlan(
        Specialisation(
            "quantise_input.cu",
            "quantise_input",
            (("INPUT_TYPE", NUMBER_TYPES[dtype]), *form.definitions),
        ),
        grid=(-(-rows * slabs // _WARPS), 1, 1),
        block=(32 * _WARPS, 1, 1),
        arguments=(
            *("x", "inputs", *QUANTISED_BUFFERS),
            *map(Integer, (rows, columns, slabs)),
        ),
        begins_early=True,
    )
