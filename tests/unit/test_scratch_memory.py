"""Memory beside operands is set apart once, at start-up: steps of whatever sizes add nothing to it."""

from __future__ import annotations

import pytest
import torch
from tune_linears import FORMS, random_slabbed

from pascaline.engine.card import recipes_of
from pascaline.hardware.architectures import capability_numbers
from pascaline.hardware.gpus import find_gpu
from pascaline.kernels import KERNELS, OPS, Chip, Launcher, Policy
from pascaline.kernels.cuda.linear_product import Product, product_of
from pascaline.kernels.cuda.linear_runner import recipe_of
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.linear_wgmma import WgmmaGeometry, plan_linear_wgmma
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.scratch_memory import ScratchMemory
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.cuda.tuned import Found, TunedLinears
from pascaline.plan.activations import card_linears_bytes
from pascaline.weights import Dense, Slabbed
from pascaline.workload.holdings import held_matrix
from pascaline.workload.limits import PARTIAL_BYTES
from pascaline.workload.places import WeightPart
from pascaline.workload.weight_form import WeightForm

MOST_ROWS = 300
CARDS = ("GTX 980", "TITAN X (Pascal)", "T4", "A100 80GB PCIe", "H200 SXM")
CPU = torch.device("cpu")

SHARING = WgmmaGeometry(block_rows=128, products=1, warpgroups=3, stages=5, parts=11)
"""Of a few blocks that are left over: at 640 rows of the weight below they would be many."""
TUNED_ROWS = 600
WGMMA = next(way for way in LINEAR_WAYS if way.name == "wgmma")


def chip_of(name: str, tuned: TunedLinears | None = None) -> Chip:
    gpu = find_gpu(name)
    limits = ChipLimits(
        capability_numbers(gpu.compute_capability),
        gpu.sms,
        gpu.architecture.shared_memory_kib_per_block << 10,
    )
    return Chip(torch.device("cuda"), limits, gpu.roofline(), tuned or TunedLinears())


def bind(memory: ScratchMemory, recipe: Recipe) -> None:
    """What binding takes of it."""
    memory.handed_on(recipe.handed_on)
    for plan in recipe.plans:
        memory.addresses(plan)


@pytest.mark.parametrize("name", ["TITAN X (Pascal)", "H200 SXM"])
def test_prompts_that_grow_take_no_more_than_was_reserved(name: str) -> None:
    launcher = Launcher(Policy(chip_of(name), KERNELS))
    weights: list[Dense | Slabbed] = [
        random_slabbed(FORMS["int4"], 1536, 512, CPU),
        random_slabbed(FORMS["Q6_K"], 512, 1536, CPU),
        Dense(torch.empty(1000, 512, dtype=torch.bfloat16)),
    ]
    memory, unreserved = ScratchMemory(CPU), ScratchMemory(CPU)
    memory.reserve(recipes_of([(weight, None) for weight in weights], launcher, MOST_ROWS))
    reserved_bytes = memory.nbytes
    largest_bytes = 0
    for rows in (*range(1, 17), *range(17, MOST_ROWS, 13), MOST_ROWS):
        for weight in weights:
            x = torch.empty(rows, weight.shape[1], device="meta")
            recipe = launcher.recipe(OPS["linear"], x, weight, None)
            bind(memory, recipe)
            bind(unreserved, recipe)
            alone = ScratchMemory(CPU)
            bind(alone, recipe)
            largest_bytes = max(largest_bytes, alone.nbytes)
    assert memory.nbytes == reserved_bytes < 2 * largest_bytes
    assert unreserved.nbytes > 2 * reserved_bytes


@pytest.mark.parametrize(
    "form", [WeightForm("packed", "Q4_0", 4, 32, 32, 2), WeightForm("dense", "BF16", 16)]
)
@pytest.mark.parametrize("name", CARDS)
def test_any_number_of_rows_takes_what_was_planned_for(name: str, form: WeightForm) -> None:
    outputs, columns, most_rows = 4608, 3584, 1100
    weight: Dense | Slabbed = Dense(torch.empty(outputs, columns, dtype=torch.bfloat16))
    tuned = TunedLinears()
    if form.kind == "packed":
        weight = random_slabbed(FORMS["int4"], outputs, columns, CPU)
        product = product_of(weight, TUNED_ROWS, ChipLimits((9, 0), 132))
        tuned = tuned.with_found(WGMMA, product, Found(SHARING, 1e-6))
    launcher = Launcher(Policy(chip_of(name, tuned), KERNELS))
    memory = ScratchMemory(torch.device("meta"))
    memory.reserve(recipes_of([(weight, None)], launcher, most_rows))
    reserved_bytes = memory.nbytes
    held = held_matrix("model.layers.0.self_attn.o_proj", (WeightPart("weight", (outputs, columns)),), form)
    assert reserved_bytes <= card_linears_bytes(most_rows, [held])
    for rows in range(1, most_rows + 1):
        x = torch.empty(rows, columns, device="meta")
        bind(memory, launcher.recipe(OPS["linear"], x, weight, None))
        assert memory.nbytes == reserved_bytes, rows


def test_a_geometry_of_other_rows_gives_way_where_it_takes_too_much() -> None:
    weight = random_slabbed(FORMS["int4"], 4608, 3584, CPU)
    limits = chip_of("H200 SXM").limits
    assert limits is not None

    def planned(rows: int) -> tuple[Product, LaunchPlan]:
        product = product_of(weight, rows, limits)
        return product, recipe_of(WGMMA, product, SHARING).main

    _, few = planned(700)
    assert few.geometry == SHARING
    product, many = planned(640)
    assert plan_linear_wgmma(product.form, product.call, limits, SHARING).scratch_bytes > PARTIAL_BYTES
    assert many.geometry != SHARING
    assert many.scratch_bytes <= PARTIAL_BYTES


def test_nothing_is_reserved_where_nothing_is_needed() -> None:
    memory = ScratchMemory(CPU)
    memory.reserve([Recipe(())])
    assert memory.nbytes == 0
