"""Linears of up to 16 rows, by integer dot products and in fp32, against fp64."""

from __future__ import annotations

import functools

import pytest
import torch
from linear_harness import FORMS, Execute, LinearCase, check_far_outputs, check_linear, linear_cases

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_rows import (
    MATRIX_SCALE_GROUPS,
    RowsGeometry,
    candidates_linear_rows,
    plan_linear_rows,
)
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.packed_cases import random_packed
from pascaline.weights.slab_layout import slabbed_form
from pascaline.weights.slabbed import SlabbedForm

CHIP = ChipLimits((6, 1), 3)
EXACT = Arithmetic(planes=2, scale_group=32)
FAST = Arithmetic(planes=1, scale_group=128)
BY_TENSOR_CORES = {planes: Arithmetic(planes, group) for planes, group in MATRIX_SCALE_GROUPS.items()}
AMPERE = ChipLimits((8, 0), 3)
IN_FP32 = Arithmetic(code_excess=128.0)
MAXWELL = ChipLimits((5, 2), 3)


GEOMETRIES = [
    *(RowsGeometry(2, 4, 4), RowsGeometry(2, 8, 1), RowsGeometry(4, 4, 2), RowsGeometry(4, 8, 2)),
    *(RowsGeometry(4, 4, 3, 2), RowsGeometry(2, 8, 1, 4)),
]


def _plan(planes: int, **more: object) -> functools.partial:
    return functools.partial(plan_linear_rows, chip=CHIP, planes=planes, **more)


@pytest.mark.parametrize("case", linear_cases(rows=(3, 7, 8, 11, 16, 1)), ids=str)
def test_linear_rows(case: LinearCase, execute: Execute) -> None:
    check_linear(_plan(2), EXACT, case, execute)


@pytest.mark.parametrize("form", FORMS)
def test_linear_rows_of_one_plane(form: str, execute: Execute) -> None:
    check_linear(_plan(1), FAST, LinearCase(form, 5, 150), execute)


@pytest.mark.parametrize("rows", [2, 4, 9, 16])
def test_rows_of_one_plane(rows: int, execute: Execute) -> None:
    check_linear(_plan(1), FAST, LinearCase("AWQ", rows), execute)


@pytest.mark.parametrize(
    "geometry",
    GEOMETRIES,
    ids=str,
)
@pytest.mark.parametrize("gated", [False, True])
def test_geometries(geometry: RowsGeometry, gated: bool, execute: Execute) -> None:
    case = LinearCase("Q4_K", 6, 336, 1152, output_dtype=torch.float32, is_gated=gated)
    check_linear(_plan(2, geometry=geometry), EXACT, case, execute)


def test_small_blocks(execute: Execute) -> None:
    """As many groups as blocks, of two warps along K."""
    plan = functools.partial(plan_linear_rows, chip=ChipLimits((6, 1), 2), planes=1)
    geometry = plan(
        slabbed_form(random_packed(FORMS["AWQ"], 8, 128, torch.Generator())), LinearCall(8, 256, 640)
    )
    assert geometry.geometry == RowsGeometry(2, 2, 8, 2)
    check_linear(plan, FAST, LinearCase("AWQ", 8, 250, 640), execute)


def _by_tensor_cores(planes: int, geometry: RowsGeometry | None = None) -> functools.partial:
    return functools.partial(
        plan_linear_rows, chip=AMPERE, planes=planes, geometry=geometry, by_tensor_cores=True
    )


@pytest.mark.parametrize("case", linear_cases(rows=(3, 7, 8, 11, 16, 1)), ids=str)
def test_linear_rows_by_tensor_cores(case: LinearCase, execute: Execute) -> None:
    check_linear(_by_tensor_cores(2), BY_TENSOR_CORES[2], case, execute)


def _forms_and_rows(rows: tuple[int, ...]) -> list[LinearCase]:
    """Every form at one number of rows in turn; for two forms, of 4 and of 6 bits, all."""
    every = [LinearCase(form, rows[i % len(rows)], 150) for i, form in enumerate(FORMS)]
    every += [LinearCase(form, count, 150) for form in ("AWQ", "Q6_K") for count in rows]
    return list(dict.fromkeys(every))


@pytest.mark.parametrize("case", _forms_and_rows((1, 6, 13)), ids=str)
def test_one_plane_by_tensor_cores(case: LinearCase, execute: Execute) -> None:
    check_linear(_by_tensor_cores(1), BY_TENSOR_CORES[1], case, execute)


@pytest.mark.parametrize("geometry", [each for each in GEOMETRIES if each.warps >= 4], ids=str)
@pytest.mark.parametrize("planes", [1, 2])
def test_geometries_by_tensor_cores(planes: int, geometry: RowsGeometry, execute: Execute) -> None:
    """Slabs that are no whole steps of warps along K; gates and ups."""
    case = LinearCase("Q4_K", 3, 336, 1300, output_dtype=torch.float32, is_gated=True)
    check_linear(_by_tensor_cores(planes, geometry), BY_TENSOR_CORES[planes], case, execute)


def _check_in_fp32(case: LinearCase, execute: Execute, geometry: RowsGeometry | None = None) -> None:
    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        is_permuted = FORMS[case.form].permutation
        return plan_linear_rows(form, call, MAXWELL, 0, geometry, has_permutation=is_permuted)

    check_linear(plan, IN_FP32, case, execute)


@pytest.mark.parametrize("case", linear_cases(rows=(3, 8, 16, 1)), ids=str)
def test_linear_rows_in_fp32(case: LinearCase, execute: Execute) -> None:
    _check_in_fp32(case, execute)


@pytest.mark.parametrize("rows", [2, 5, 12])
def test_rows_in_fp32(rows: int, execute: Execute) -> None:
    _check_in_fp32(LinearCase("AWQ", rows, 150), execute)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_geometries_in_fp32(geometry: RowsGeometry, execute: Execute) -> None:
    """Slabs that are no whole steps of warps along K, and of super-blocks of two."""
    _check_in_fp32(LinearCase("Q4_K", 6, 336, 1280), execute, geometry)


@pytest.mark.parametrize("geometry", [RowsGeometry(4, 4, 3, 2), RowsGeometry(2, 4, 2, 4)], ids=str)
@pytest.mark.parametrize("form", ["Q6_K", "Q3_K", "MXFP4", "groups of 256"])
def test_warps_along_k(geometry: RowsGeometry, form: str, execute: Execute) -> None:
    check_linear(_plan(2, geometry=geometry), EXACT, LinearCase(form, 3, 75, 1300), execute)


def test_offsets_beyond_32_bits() -> None:
    chip = ChipLimits((6, 1), 1 << 20)  # blocks of whole groups
    check_far_outputs(functools.partial(plan_linear_rows, chip=chip, planes=2), EXACT)


def test_what_it_refuses() -> None:
    form = slabbed_form(random_packed(FORMS["AWQ"], 8, 128, torch.Generator()))
    with pytest.raises(UnsupportedError, match="17 rows at once"):
        plan_linear_rows(form, LinearCall(17, 8, 128), CHIP, 2)
    with pytest.raises(UnsupportedError, match="fp32 inputs by products of bytes"):
        plan_linear_rows(form, LinearCall(3, 8, 128), AMPERE, 0, by_tensor_cores=True)
    with pytest.raises(UnsupportedError, match="products of bytes on sm_75"):
        plan_linear_rows(form, LinearCall(3, 8, 128), ChipLimits((7, 5), 3), 2, by_tensor_cores=True)
    with pytest.raises(UnsupportedError, match="a gated product of 24 outputs"):
        plan_linear_rows(form, LinearCall(3, 24, 128, is_gated=True), CHIP, 2)
    with pytest.raises(UnsupportedError, match="integer dot products on sm_60"):
        plan_linear_rows(form, LinearCall(3, 8, 128), ChipLimits((6, 0), 3), 2)


def test_candidates_are_few_and_different() -> None:
    form = slabbed_form(random_packed(FORMS["AWQ"], 8, 128, torch.Generator()))
    plans = candidates_linear_rows(form, LinearCall(8, 3584, 3584), ChipLimits((6, 1), 30), 2)
    assert plans[0] == plan_linear_rows(form, LinearCall(8, 3584, 3584), ChipLimits((6, 1), 30), 2)
    keys = [(plan.specialisation, plan.grid) for plan in plans]
    assert len(set(keys)) == len(keys) <= 24


@pytest.mark.parametrize(("rows", "planes"), [(2, 1), (8, 1), (16, 1), (2, 2), (16, 2)])
def test_candidates_of_tensor_cores_are_few_and_different(rows: int, planes: int) -> None:
    form = slabbed_form(random_packed(FORMS["AWQ"], 8, 128, torch.Generator()))
    call = LinearCall(rows, 3584, 3584)
    plans = candidates_linear_rows(form, call, AMPERE, planes, by_tensor_cores=True)
    assert plans[0] == plan_linear_rows(form, call, AMPERE, planes, by_tensor_cores=True)
    keys = [(plan.specialisation, plan.grid) for plan in plans]
    assert len(set(keys)) == len(keys) <= 12
