"""Memory beside operands is set apart once, at start-up: steps of whatever sizes add nothing to it."""

from __future__ import annotations

import pytest
import torch
from tune_linears import FORMS, random_slabbed

from pascaline.engine.card import recipes_of
from pascaline.hardware.gpus import find_gpu
from pascaline.kernels import KERNELS, OPS, Chip, Launcher, Policy
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.scratch_memory import ScratchMemory
from pascaline.kernels.cuda.specialisation import ChipLimits
from pascaline.weights import Dense, Slabbed

MOST_ROWS = 300
CHIPS = {
    "TITAN X (Pascal)": ChipLimits((6, 1), 28),
    "H200 SXM": ChipLimits((9, 0), 132, 227 << 10),
}
CPU = torch.device("cpu")


def bind(memory: ScratchMemory, recipe: Recipe) -> None:
    """What binding takes of it."""
    memory.handed_on(recipe.handed_on)
    for plan in recipe.plans:
        memory.addresses(plan)


@pytest.mark.parametrize("name", CHIPS)
def test_prompts_that_grow_take_no_more_than_was_reserved(name: str) -> None:
    chip = Chip(torch.device("cuda"), CHIPS[name], find_gpu(name).roofline())
    launcher = Launcher(Policy(chip, KERNELS))
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


def test_nothing_is_reserved_where_nothing_is_needed() -> None:
    memory = ScratchMemory(CPU)
    memory.reserve([Recipe(())])
    assert memory.nbytes == 0
