"""Tiled products of many rows by integer dot products, against fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
from linear_harness import FORMS, Execute, LinearCase, check_linear, linear_cases

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_tile import (
    TILE_SCALE_GROUPS,
    TileGeometry,
    candidates_linear_tile,
    plan_linear_tile,
)
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.weights.slabbed import SlabbedForm

CHIP = ChipLimits((6, 1), 30)
FAST = InputForm(planes=1, scale_group=TILE_SCALE_GROUPS[1], is_quantised=True)
EXACT = InputForm(planes=2, scale_group=32, is_quantised=True)


def _check(
    case: LinearCase, execute: Execute, inputs: InputForm, geometry: TileGeometry | None = None
) -> None:
    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        return plan_linear_tile(form, call, CHIP, inputs, geometry)

    check_linear(plan, Arithmetic(planes=inputs.planes, scale_group=inputs.scale_group), case, execute)


@pytest.mark.parametrize("case", linear_cases(rows=(17, 1, 33)), ids=str)
def test_linear_tile(case: LinearCase, execute: Execute) -> None:
    _check(case, execute, FAST)


@pytest.mark.parametrize("form", FORMS)
def test_linear_tile_of_two_planes(form: str, execute: Execute) -> None:
    _check(LinearCase(form, 18), execute, EXACT)


@pytest.mark.parametrize("geometry", [(4, 2, 2), (2, 4, 2), (2, 2, 4), (1, 4, 4), (2, 1, 8)], ids=str)
@pytest.mark.parametrize("splits", [1, 3])
def test_linear_tile_in_parts(geometry: tuple[int, int, int], splits: int, execute: Execute) -> None:
    """Rows and outputs that are no whole blocks, and slabs that are no whole parts."""
    inputs = replace(EXACT, scale_group=128)
    _check(LinearCase("GPTQ 4 bits", 139, 141, 640), execute, inputs, TileGeometry(*geometry, splits=splits))


def test_linear_tile_of_gated_parts(execute: Execute) -> None:
    case = LinearCase("Q4_K", 35, 144, 640, is_gated=True)
    _check(case, execute, FAST, TileGeometry(2, 2, 4, splits=2))


def test_plans_that_there_are_not() -> None:
    form, call = SlabbedForm(4, 128, FORMS["AWQ"].scale_dtype), LinearCall(64, 24, 256)
    with pytest.raises(UnsupportedError, match="sm_60"):
        plan_linear_tile(form, call, ChipLimits((6, 0), 56), FAST)
    with pytest.raises(UnsupportedError, match="quantise_input"):
        plan_linear_tile(form, call, CHIP, InputForm(planes=1, scale_group=128))
    with pytest.raises(UnsupportedError, match="gated"):
        plan_linear_tile(form, replace(call, is_gated=True), CHIP, FAST)


@pytest.mark.parametrize("inputs", [FAST, EXACT])
def test_candidates_are_few_and_differ(inputs: InputForm) -> None:
    form = SlabbedForm(4, 128, FORMS["AWQ"].scale_dtype, zero=8)
    for rows, outputs, columns in ((17, 3584, 3584), (512, 37888, 3584), (4096, 3584, 18944)):
        plans = candidates_linear_tile(form, LinearCall(rows, outputs, columns), CHIP, inputs)
        assert plans[0] == plan_linear_tile(form, LinearCall(rows, outputs, columns), CHIP, inputs)
        keys = {(plan.grid, plan.block, plan.specialisation.definitions) for plan in plans}
        assert 3 <= len(plans) == len(keys) <= 24


@pytest.mark.parametrize(
    ("multiprocessors", "outputs", "threads"),
    [(28, 3584, 256), (28, 4608, 128), (30, 3584, 128), (30, 4608, 256)],
    ids=["8 a multiprocessor", "10.3", "7.5", "9.6"],
)
def test_rounds_of_blocks_that_are_not_full(multiprocessors: int, outputs: int, threads: int) -> None:
    """512 rows: of blocks of 128 × 64 as many as named; where many places stay empty, halves are better."""
    form = SlabbedForm(4, 128, FORMS["AWQ"].scale_dtype, zero=8)
    chip = ChipLimits((6, 1), multiprocessors)
    assert plan_linear_tile(form, LinearCall(512, outputs, 3584), chip, FAST).block == (threads, 1, 1)
