"""Packed weights made dense, against the formula in fp64."""

from __future__ import annotations

import numpy
import pytest
import torch
from linear_harness import FORMS, Execute, LinearCase, as_array, compare, from_array

from pascaline.core.errors import ShapeError
from pascaline.kernels.cuda.dequantise import plan_dequantise
from pascaline.kernels.cuda.linear_bounds import Terms
from pascaline.kernels.op import FP32_ROUNDING
from pascaline.kernels.packed_cases import PackedForm, random_packed
from pascaline.weights.slab_layout import to_slabs
from pascaline.weights.slabbed import SlabbedForm

_UNITS = {
    torch.float32: (0.0, 2.0**-149),
    torch.float16: (2.0**-11, 2.0**-25),
    torch.bfloat16: (2.0**-8, 2.0**-134),
}
"""Half a unit in the last place, and of subnormals."""


def _check(
    form: PackedForm, shape: tuple[int, int], piece: slice, dtype: torch.dtype, execute: Execute
) -> None:
    """Two roundings of fp32 (an inexact product, and the difference) and one of the result's type."""
    weight = random_packed(form, *shape, torch.Generator().manual_seed(shape[1]))
    slabbed = to_slabs(weight)
    dense = torch.empty(piece.stop - piece.start, shape[1], dtype=dtype)
    buffers = {name: as_array(tensor) for name, tensor in slabbed.buffers.items()} | {
        "dense": as_array(dense)
    }
    plan = plan_dequantise(slabbed.form, *shape, dtype, start=piece.start, stop=piece.stop)
    execute(plan, buffers, ("dense",))
    terms = Terms.of(weight)
    expected = terms.weight[piece]
    unit, subnormal = _UNITS[dtype]
    bound = 2 * FP32_ROUNDING * terms.magnitude[piece] + unit * numpy.abs(expected) + subnormal
    compare(from_array(buffers["dense"], dtype), expected, bound)


@pytest.mark.parametrize("name", FORMS)
def test_every_form(name: str, execute: Execute) -> None:
    columns = LinearCase(name, 1).actual_columns
    _check(FORMS[name], (13, columns), slice(0, 13), torch.float16, execute)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("columns", [1312, 1024])
def test_types_and_pieces(dtype: torch.dtype, columns: int, execute: Execute) -> None:
    _check(FORMS["Q8_0"], (90, columns), slice(16, 77), dtype, execute)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_that_do_not_begin_at_16_bytes(dtype: torch.dtype, execute: Execute) -> None:
    _check(PackedForm(4, 331, (2,), zero=8), (11, 331), slice(0, 11), dtype, execute)


def test_a_piece_begins_with_a_tile() -> None:
    form = SlabbedForm(4, 32, torch.float16)
    with pytest.raises(ShapeError):
        plan_dequantise(form, 32, 64, torch.float16, start=4)
    with pytest.raises(ShapeError):
        plan_dequantise(form, 32, 64, torch.float16, start=8, stop=8)
