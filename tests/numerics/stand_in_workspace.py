"""In the place of a card's `Workspace`: steps recorded for cards, run by whatever launches plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from linear_harness import Execute, as_array

from pascaline.kernels.cuda.linear_product import product_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.program import CardProgram
from pascaline.kernels.cuda.quantise_input import QUANTISED_BUFFERS
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.kernel import Workspace
from pascaline.weights import Dense, Slabbed

CHANGED = {
    "rms_norm.cu": ("residual",),
    "store_rows.cu": ("cache", "scales"),
    "rotate_and_store.cu": ("key_cache", "value_cache", "key_scales", "value_scales"),
    "scale_back.cu": ("y",),
    "add_products.cu": ("y",),
}
"""Buffers of which launches change some, by their files."""
MADE = (*QUANTISED_BUFFERS, "scaled", "factors", "halves")
"""What is made for linears."""


def memory_of(tensor: torch.Tensor) -> torch.Tensor:
    """Its elements and what lies between them, flat."""
    span = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.as_strided(tensor, (span if tensor.numel() else 0,), (1,), tensor.storage_offset())


def handed_on_by(recipe: Recipe) -> dict[str, torch.Tensor | None]:
    """Memory for what its steps hand on."""
    return {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in recipe.handed_on.items()}


def written_by(plan: LaunchPlan) -> tuple[list[str], list[str]]:
    """Buffers that a launch fills, and those of which it changes some."""
    file = plan.specialisation.file
    changed = CHANGED.get(file, ())
    if file.startswith("attention"):
        changed = ("y",)  # rows of no sequence stay what they are
    elif file == "elementwise.cu" and "y" not in plan.arguments:
        changed = ("x",)
    if file == "add_products.cu" and "products" in plan.arguments:
        changed = ()  # all of y is written, of nothing that was there
    made = () if file.startswith(("linear", "scale_back")) else MADE
    filled = [name for name in ("y", *made) if name in plan.arguments and name not in changed]
    return filled, [name for name in changed if name in plan.arguments]


class StandInWorkspace:
    """In the place of a `Workspace`, its `OpRunner` and `LinearRunner`: recipes run as `execute` does."""

    def __init__(self, limits: ChipLimits, execute: Execute) -> None:
        self._execute = execute
        self.ops, self.limits = self, limits
        self._made: dict[object, Recipe] = {}

    def __call__(
        self, key: object, make: Callable[[], Recipe], buffers: dict[str, torch.Tensor | None]
    ) -> None:
        recipe = make()
        assert self._made.setdefault(key, recipe) == recipe, "launches that are not alike are bound as one"
        self._run(recipe, buffers | handed_on_by(recipe))

    def linears(
        self,
        way: LinearWay,
        x: torch.Tensor,
        weight: Dense | Slabbed,
        bias: torch.Tensor | None,
        out: torch.Tensor,
        *,
        is_gated: bool = False,
    ) -> None:
        bias_dtype = None if bias is None else bias.dtype
        product = product_of(weight, x.shape[0], self.limits, bias_dtype=bias_dtype, is_gated=is_gated)
        recipe = way.recipe(product, None)
        stored = {"weight": weight.tensor} if isinstance(weight, Dense) else weight.buffers
        self._run(recipe, {**stored, **handed_on_by(recipe), "x": x, "bias": bias, "y": out})

    def _run(self, recipe: Recipe, buffers: Mapping[str, torch.Tensor | None]) -> None:
        arrays = {name: as_array(memory_of(each)) for name, each in buffers.items() if each is not None}
        for step in recipe.steps:
            if isinstance(step, LaunchPlan):
                outputs, updates = written_by(step)
                self._execute(step, arrays, outputs, updates=updates)
            else:
                step(buffers)


def run_step(step: CardProgram, limits: ChipLimits, execute: Execute) -> torch.Tensor:
    """What the launches compute, in memory that they share."""
    placed, result = step.placed(torch.full((step.nbytes,), 0x7F, dtype=torch.uint8))
    workspace = cast(Workspace, StandInWorkspace(limits, execute))
    for each in placed:
        each.kernel.launch(*each.inputs, out=each.out, workspace=workspace, **each.parameters)
    return result.clone()
