"""Linears by tensor cores against fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from linear_harness import FORMS, Execute, LinearCase, check_linear, linear_cases

from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_mma import MmaGeometry, plan_linear_mma
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.weights.slabbed import SlabbedForm
from pascaline.workload.slab_form import SLAB

CHIP = ChipLimits((9, 0), 4, 227 << 10)
_EPSILON = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
GEOMETRIES = (
    MmaGeometry(8, 2, 2, 2),
    MmaGeometry(16, 4, 1, 3),
    MmaGeometry(24, 6, 4, 1, stages=2),
    MmaGeometry(64, 2, 2, 1),
    MmaGeometry(8, 2, 1, 1, sharers=7),
    MmaGeometry(16, 2, 1, 2, sharers=5, turns_per_stage=2),
    MmaGeometry(16, 2, 2, 1, turns_per_stage=3, stages=2),
)
NARROW = (("AWQ", 13, False), ("AWQ", 16, True), ("whole rows of 8 bits", 37, False))
ROUNDING = (MmaGeometry(32, 4, 2, 2, rounds_weights=True), MmaGeometry(64, 6, 1, 1, rounds_weights=True))


def _arithmetic(case: LinearCase, *, rounds_weights: bool = False) -> Arithmetic:
    """x of fp32 is rounded to fp16; weights, where their scale is within a fragment, thrice at most."""
    form = FORMS[case.form]
    unit = _EPSILON[torch.bfloat16 if case.input_dtype == torch.bfloat16 else torch.float16]
    is_fine = rounds_weights or (form.super_size or form.group_size) < SLAB
    is_wide = (form.group_bits or 0) + form.bits > (8 if case.input_dtype == torch.bfloat16 else 11)
    return Arithmetic(
        weight_rounding=3 * unit if is_fine else unit if is_wide else 0.0,
        input_rounding=unit if case.input_dtype == torch.float32 else 0.0,
        code_excess=128.0,
        sum_roundings=4.0,
    )


@pytest.mark.parametrize("case", linear_cases((3, 8, 5, 17)), ids=str)
def test_linear_mma(case: LinearCase, execute: Execute) -> None:
    is_permuted = FORMS[case.form].permutation

    def plan(form: SlabbedForm, call: LinearCall) -> LaunchPlan:
        return plan_linear_mma(form, call, CHIP, is_permuted=is_permuted)

    check_linear(plan, _arithmetic(case), case, execute)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("form", ["AWQ", "Q4_K"])
def test_linear_mma_geometries(form: str, geometry: MmaGeometry, execute: Execute) -> None:
    case = LinearCase(form, geometry.block_rows + 9, 75, 1000)
    check_linear(
        lambda form, call: plan_linear_mma(form, call, CHIP, geometry), _arithmetic(case), case, execute
    )


@pytest.mark.parametrize(("form", "outputs", "is_gated"), NARROW)
def test_narrow_weights(form: str, outputs: int, is_gated: bool, execute: Execute) -> None:
    """Fewer tiles than a warp takes: neither loads nor lines brought ahead go beyond the weight's end."""
    case = LinearCase(form, 5, outputs, 416, is_gated=is_gated)
    geometry = MmaGeometry(8, 6, 1, 2)
    assert geometry.is_narrow(case.call)
    check_linear(
        lambda form, call: plan_linear_mma(form, call, CHIP, geometry), _arithmetic(case), case, execute
    )


@pytest.mark.parametrize("geometry", ROUNDING, ids=str)
@pytest.mark.parametrize("form", ["AWQ", "groups of 256", "whole rows of 8 bits"])
def test_rounded_weights(form: str, geometry: MmaGeometry, execute: Execute) -> None:
    case = LinearCase(form, geometry.block_rows + 9, 75, 416)
    check_linear(
        lambda form, call: plan_linear_mma(form, call, CHIP, geometry),
        _arithmetic(case, rounds_weights=True),
        case,
        execute,
    )


@pytest.mark.parametrize(
    "geometry",
    [MmaGeometry(8, 2, 2, 1, sharers=29), MmaGeometry(16, 4, 1, 2, sharers=11, turns_per_stage=2)],
    ids=str,
)
@pytest.mark.parametrize(
    ("outputs", "is_gated", "has_residual"),
    [(100, False, True), (90, True, False), (96, True, False), (51, False, True)],
)
def test_shared_blocks(
    geometry: MmaGeometry, outputs: int, is_gated: bool, has_residual: bool, execute: Execute
) -> None:
    """Some blocks of threads have turns at two blocks of y, and these are stored in fours or not."""
    chip = replace(CHIP, multiprocessors=16)
    case = LinearCase(
        "AWQ", geometry.block_rows + 1, outputs, 1000, is_gated=is_gated, has_residual=has_residual
    )
    check_linear(
        lambda form, call: plan_linear_mma(form, call, chip, geometry), _arithmetic(case), case, execute
    )
