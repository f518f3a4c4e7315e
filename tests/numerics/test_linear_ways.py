"""Every way of computing a linear, all of its steps together, against fp64.

Kernels have tests of their own, of all forms: here are forms that steps treat differently.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import pytest
import torch
from host_card import run_plan
from linear_harness import FORMS, as_array

from pascaline.core.errors import ShapeError
from pascaline.hardware.cuda_driver import Function, PreparedLaunch
from pascaline.kernels import OPS, Kernel
from pascaline.kernels.cuda import linear_recipes
from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.linear_product import product_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.recipe import BoundRecipe, Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan, Specialisation
from pascaline.kernels.cuda_linear import LINEARS, in_slabs
from pascaline.kernels.packed_cases import random_packed
from pascaline.weights import Dense, Packed, Slabbed

CHIP = ChipLimits((9, 0), 4, 227 << 10)
OUTPUTS, COLUMNS = 24, 512
KERNEL_OF: dict[str, Kernel] = dict(zip((way.name for way in LINEAR_WAYS), LINEARS, strict=True))
PACKED = [way for way in LINEAR_WAYS if not way.name.startswith("dense")]
DENSE = {
    "dense_decode": (torch.float16, torch.bfloat16, torch.float32),
    "dense_columns": (torch.float16, torch.bfloat16, torch.float32),
    "dense_half": (torch.float16,),
    "dense_brain": (torch.bfloat16,),
    "dense_brain_rounded": (torch.bfloat16,),
}


def rows_of(way: LinearWay, weight: Dense | Slabbed) -> int:
    """A number of rows that the way takes."""
    return next(rows for rows in (3, 5, 17, 33, 1) if way.refusal(product_of(weight, rows, CHIP)) is None)


def run(recipe: Recipe, operands: dict[str, torch.Tensor | None]) -> None:
    """All steps on the CPU: launches in the stand-in for a card, and torch's as they are."""
    buffers = dict(operands)
    for name, (shape, dtype) in recipe.handed_on.items():
        buffers[name] = (
            torch.full(shape, torch.nan).to(dtype)
            if dtype.is_floating_point
            else torch.zeros(shape, dtype=dtype)
        )
    for step in recipe.steps:
        if not isinstance(step, LaunchPlan):
            step(buffers)
            continue
        names = {name for name in step.arguments if isinstance(name, str)}
        arrays = {name: as_array(tensor) for name in names if (tensor := buffers.get(name)) is not None}
        updates = {"y"} if changes_y(step) else set()
        written = names & {"y", *recipe.handed_on} - read_by(step) - updates
        run_plan(step, arrays, written, updates=updates)


def changes_y(plan: LaunchPlan) -> bool:
    """Whether a launch adds to a library's product in its place."""
    is_last = plan.specialisation.entry in ("scale_back", "add_products")
    return is_last and "products" not in plan.arguments


def read_by(plan: LaunchPlan) -> set[str]:
    """Of the buffers that are handed on, those that a launch reads."""
    written = {
        "quantise_input": {"input_codes", "input_scales", "input_sums"},
        "scale_rows": {"scaled", "factors"},
        "round_rows": {"halves"},
        "dequantise": {"dense"},
        "order_input": {"ordered"},
    }.get(plan.specialisation.entry, set())
    made = {"input_codes", "input_scales", "input_sums", "scaled", "factors", "dense", "ordered"}
    made |= {"halves", "products"}
    return made - written


@pytest.fixture(autouse=True)
def products_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU torch has no products of halves in fp32: their sums, as tensor cores make them."""

    def multiply(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_((x.double() @ weight.double().T).to(out.dtype))

    monkeypatch.setattr(linear_recipes, "_multiply", multiply)


def check(way: LinearWay, weight: Dense | Packed, *, has_bias: bool) -> None:
    held = in_slabs(weight)
    assert isinstance(held, Dense | Slabbed)
    rows = rows_of(way, held)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, weight.shape[1], generator=generator).exp()
    x *= torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
    x[0] *= 1e30  # beyond fp16
    x[-1] *= 1e-30
    bias = torch.randn(weight.shape[0], generator=generator) if has_bias else None
    y = torch.full((rows, weight.shape[0]), torch.nan)
    operands: dict[str, torch.Tensor | None] = {"x": x, "bias": bias, "y": y}
    operands |= {"weight": held.tensor} if isinstance(held, Dense) else held.buffers
    product = product_of(held, rows, CHIP, bias_dtype=None if bias is None else bias.dtype)
    run(way.recipe(product, None), operands)
    doubles = (x.double(), weight, None if bias is None else bias.double())
    tolerance = KERNEL_OF[way.name].tolerance
    assert tolerance is not None
    error = (y.double() - OPS["linear"].reference(*doubles)).abs()
    bound = tolerance.bound(*doubles)
    assert (error <= bound).all(), float((error / bound).nan_to_num(torch.inf).max())


@pytest.mark.parametrize(
    ("way", "form"),
    [
        pytest.param(way, form, id=f"{way.name}-{form}")
        for way in PACKED
        for form in ("Q4_0", "GPTQ 4 bits", "Q6_K")
        if (way.name, form) != ("wgmma", "Q6_K")  # refused: it has two levels of scales
    ],
)
def test_a_way_is_within_its_bound(way: LinearWay, form: str) -> None:
    generator = torch.Generator().manual_seed(3)
    shape = FORMS[form]
    columns = COLUMNS if COLUMNS % (shape.super_size or shape.group_size) == 0 else shape.group_size
    check(way, random_packed(shape, OUTPUTS, columns, generator), has_bias=form != "GPTQ 4 bits")


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name, dtypes in DENSE.items() for dtype in dtypes]
)
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_way_of_dense_weights_is_within_its_bound(name: str, dtype: torch.dtype, has_bias: bool) -> None:
    weight = torch.randn(OUTPUTS, COLUMNS, generator=torch.Generator().manual_seed(4)).to(dtype)
    way = next(way for way in LINEAR_WAYS if way.name == name)
    check(way, Dense(weight), has_bias=has_bias)


class NoCard:
    """What a `KernelSet` is to a recipe, without a card: binds, and launches nothing."""

    def __init__(self) -> None:
        self.launched: list[LaunchPlan] = []

    def bind(self, plan: LaunchPlan, addresses: Mapping[str, int | None]) -> BoundLaunch:
        scratch = {name: 16 * (1 + place) for place, name in enumerate(plan.scratch)}
        return BoundLaunch(NoFunction(self, plan), plan, {**addresses, **scratch})


class NoFunction(Function):
    def __init__(self, card: NoCard, plan: LaunchPlan) -> None:
        self._card, self._plan = card, plan

    def prepare(self, *_: object, **__: object) -> PreparedLaunch:
        return cast(PreparedLaunch, lambda _stream: self._card.launched.append(self._plan))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capability", [(5, 0), (6, 1), (9, 0)])
def test_every_plan_of_every_way_gets_its_buffers(form: str, capability: tuple[int, int]) -> None:
    shape = FORMS[form]
    columns = 2560 if 2560 % (shape.super_size or shape.group_size) == 0 else shape.group_size
    held = in_slabs(random_packed(shape, 64, columns, torch.Generator().manual_seed(3)))
    assert isinstance(held, Slabbed)
    bind_all(held, ChipLimits(capability, 28, (48 if capability < (7, 0) else 227) << 10))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_plan_for_dense_weights_gets_its_buffers(dtype: torch.dtype) -> None:
    bind_all(Dense(torch.empty(64, 512, dtype=dtype)), ChipLimits((9, 0), 132, 227 << 10))


def bind_all(held: Dense | Slabbed, chip: ChipLimits) -> None:
    """Ways with their own geometry and with each candidate, launched with nothing behind."""
    rate = {"int8": (6, 1), "tensor_fp16": (7, 0), "tensor_bf16": (8, 0)}
    for way in LINEAR_WAYS:
        if chip.compute_capability < rate.get(way.unit, (0, 0)) or way.needs(chip) is not None:
            continue
        for rows in (1, 2, 3, 7, 16, 17, 100, 512):
            product = product_of(held, rows, chip, bias_dtype=torch.float32)
            if way.refusal(product) is not None:
                continue
            geometries = [plan.geometry for plan in way.candidates(product)]
            assert None not in geometries
            for geometry in (None, *geometries):
                recipe = way.recipe(product, geometry)
                card = NoCard()
                operands = {"weight": held.tensor} if isinstance(held, Dense) else held.buffers
                handed_on = {
                    name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in recipe.handed_on.items()
                }
                plans_only = replace(recipe, steps=recipe.plans)
                bound = BoundRecipe(card, plans_only, {**operands, **handed_on}, ("x", "bias", "y"))
                bound(0, x=torch.empty(1), bias=None, y=torch.empty(1))
                assert card.launched == list(recipe.plans)


def test_nothing_of_a_call_is_held_after_it() -> None:
    seen: list[torch.Tensor | None] = []
    plan = LaunchPlan(Specialisation("a.cu", "a", ()), (1, 1, 1), (1, 1, 1), ("x", "y"))
    bound = BoundRecipe(NoCard(), Recipe((plan, lambda buffers: seen.append(buffers["y"]))), {}, ("x", "y"))
    x, y = torch.empty(1), torch.empty(1)
    held = sys.getrefcount(x), sys.getrefcount(y)
    bound(0, x=x, y=y)
    assert seen.pop() is y
    assert (sys.getrefcount(x), sys.getrefcount(y)) == held


def test_a_misspelt_buffer_is_an_error() -> None:
    plan = LaunchPlan(Specialisation("a.cu", "a", ()), (1, 1, 1), (1, 1, 1), ("x", "codez"))
    with pytest.raises(ShapeError, match="no address of 'codez' for a"):
        BoundRecipe(NoCard(), Recipe((plan,)), {}, ("x",))
