"""Linears by products of warpgroups, and the order that they read x in, against fp64."""

from __future__ import annotations

import numpy
import pytest
import torch
from linear_harness import FORMS, Execute, LinearCase, as_array, check_linear, linear_cases, ordered

from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_wgmma import WgmmaGeometry, plan_linear_wgmma
from pascaline.kernels.cuda.order_input import ordered_shape, plan_order_input
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB

CHIP = ChipLimits((9, 0), 4, 227 << 10)
_HALF = 2.0**-11
ONE_LEVEL = [name for name, form in FORMS.items() if form.group_bits is None]
GEOMETRIES = (
    WgmmaGeometry(16, 1, 1, 3),
    WgmmaGeometry(32, 1, 3, 4),
    WgmmaGeometry(64, 2, 1, 6, parts=3),
    WgmmaGeometry(128, 2, 1, 3, parts=2),
)


def _arithmetic(case: LinearCase) -> Arithmetic:
    """x of fp32 is rounded to fp16, and weights thrice at most."""
    return Arithmetic(
        weight_rounding=3 * _HALF,
        input_rounding=_HALF if case.input_dtype == torch.float32 else 0.0,
        code_excess=128.0,
        sum_roundings=4.0,
    )


@pytest.mark.parametrize(
    "case",
    [each for each in linear_cases((25, 33), ONE_LEVEL) if each.input_dtype != torch.bfloat16],
    ids=str,
)
def test_linear_wgmma(case: LinearCase, execute: Execute) -> None:
    check_linear(lambda form, call: plan_linear_wgmma(form, call, CHIP), _arithmetic(case), case, execute)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("is_gated", [False, True])
def test_linear_wgmma_geometries(geometry: WgmmaGeometry, is_gated: bool, execute: Execute) -> None:
    outputs = 336 if is_gated else 300
    case = LinearCase("AWQ", geometry.block_rows + 9, outputs, 1000, is_gated=is_gated)

    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        return plan_linear_wgmma(form, call, CHIP, geometry)

    check_linear(plan, _arithmetic(case), case, execute)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("is_permuted", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (13, 400), (8, 256), (3, 42)])
def test_order_input(
    rows: int, columns: int, is_permuted: bool, dtype: torch.dtype, execute: Execute
) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, columns, generator=generator).to(dtype)
    padded = -(-columns // SLAB) * SLAB
    inputs = torch.full((padded,), -1, dtype=torch.int32)
    inputs[:columns] = torch.randperm(columns, generator=generator)
    shape, _ = ordered_shape(rows, columns)
    found = numpy.full(shape, numpy.nan, numpy.float16)
    buffers = {"x": as_array(x), "ordered": found}
    if is_permuted:
        buffers["inputs"] = as_array(inputs)
    execute(plan_order_input(rows, columns, dtype, is_permuted=is_permuted), buffers, ("ordered",))
    stored = x[:, inputs[:columns].long()] if is_permuted else x
    wanted = numpy.zeros((rows, padded))
    wanted[:, :columns] = stored.double().numpy()
    numpy.testing.assert_array_equal(buffers["ordered"], ordered(wanted))
