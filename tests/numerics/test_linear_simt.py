"""Tiled products of many rows in fp32, packed and dense weights, against fp64."""

from __future__ import annotations

import numpy
import pytest
import torch
from linear_harness import (
    FORMS,
    Execute,
    LinearCase,
    as_array,
    check_linear,
    compare,
    from_array,
    linear_cases,
)

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_simt import SimtGeometry, candidates_linear_simt, plan_linear_simt
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.op import FP32_ROUNDING, summation_error
from pascaline.weights.slabbed import SlabbedForm

CHIP = ChipLimits((5, 2), 16)
GEOMETRIES = [(8, 2, 2), (8, 1, 4), (4, 2, 2), (4, 1, 4)]


def _check(case: LinearCase, execute: Execute, geometry: SimtGeometry | None = None) -> None:
    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        return plan_linear_simt(form, call, CHIP, geometry, has_permutation=FORMS[case.form].permutation)

    check_linear(plan, Arithmetic(), case, execute)


@pytest.mark.parametrize("case", linear_cases(rows=(17, 1, 33)), ids=str)
def test_linear_simt(case: LinearCase, execute: Execute) -> None:
    _check(case, execute)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_linear_simt_in_parts(geometry: tuple[int, int, int], splits: int, execute: Execute) -> None:
    """Rows and outputs that are no whole blocks, and quarters that are no whole parts."""
    _check(LinearCase("Q6_K", 139, 141, 512), execute, SimtGeometry(*geometry, splits=splits))


def test_linear_simt_of_gated_parts(execute: Execute) -> None:
    _check(LinearCase("Q4_K", 35, 144, 640, is_gated=True), execute, SimtGeometry(8, 1, 4, splits=2))


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(33, 141, 416), (17, 13, 403), (1, 1, 1), (70, 150, 48)], ids=str)
def test_linear_simt_of_dense_weights(
    weight_dtype: torch.dtype, shape: tuple[int, int, int], execute: Execute
) -> None:
    """Whole pieces of rows and others; x of the weight's dtype."""
    rows, outputs, columns = shape
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(rows, columns, generator=generator).to(weight_dtype)
    weight = torch.randn(outputs, columns, generator=generator).to(weight_dtype)
    y = torch.empty(rows, outputs)
    call = LinearCall(rows, outputs, columns, input_dtype=weight_dtype, output_dtype=torch.float32)
    buffers = {"x": as_array(x), "weight": as_array(weight), "y": as_array(y)}
    execute(plan_linear_simt(weight_dtype, call, CHIP), buffers, ("y",))
    wide = x.double().numpy(), weight.double().numpy().T
    size = numpy.abs(wide[0]) @ numpy.abs(wide[1])
    bound = FP32_ROUNDING * (summation_error(columns) + 2) * size
    compare(from_array(buffers["y"], torch.float32), wide[0] @ wide[1], bound)


def test_plans_that_there_are_not() -> None:
    with pytest.raises(UnsupportedError, match="gated"):
        plan_linear_simt(torch.float16, LinearCall(64, 24, 256, is_gated=True), CHIP)


@pytest.mark.parametrize("weight", [torch.float16, SlabbedForm(4, 128, torch.float16, zero=8)], ids=str)
def test_candidates_are_few_and_differ(weight: SlabbedForm | torch.dtype) -> None:
    for rows, outputs, columns in ((17, 3584, 3584), (512, 37888, 3584), (4096, 3584, 18944)):
        call = LinearCall(rows, outputs, columns)
        plans = candidates_linear_simt(weight, call, CHIP)
        assert plans[0] == plan_linear_simt(weight, call, CHIP)
        keys = {(plan.grid, plan.block, plan.specialisation.definitions) for plan in plans}
        assert 3 <= len(plans) == len(keys) <= 24
