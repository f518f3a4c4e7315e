"""Our ways for a weight, rows and a card: with each kernel's own geometry, and with all it would try."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence

import torch

from linears.cases import Shape
from linears.our_ways import NamedRecipe
from pascaline.hardware.architectures import architectures
from pascaline.kernels.cuda.linear_call import LinearCall
from pascaline.kernels.cuda.linear_product import Product, product_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.cuda.tuned import TunedLinears
from pascaline.weights.slabbed import Slabbed

_HALF = torch.float16
_MOST_ROWS = {"mma": 512, "simt": 2048}
"""Beyond which a way would take most of the time of a comparison, and is many times slower than others."""

_FAMILIES: dict[str, str | tuple[str, ...]] = {
    "linear_decode": "decode_",
    "linear_rows": ("rows_", "matrix_"),
    "linear_mma": "mma",
    "linear_wgmma": "wgmma",
    "linear_tile": "tile_",
    "linear_simt": "simt",
}
"""Kernels' files, and what the names of their ways begin with."""


def recipes(weight: Slabbed, rows: int, chip: ChipLimits) -> tuple[list[NamedRecipe], dict[str, str]]:
    """All ways, x and y in fp16, and why those that have none for this case by a mistake have none."""
    product = product_of(weight, rows, chip, input_dtype=_HALF, output_dtype=_HALF)
    return _recipes(product)


def dense(shape: Shape, rows: int, dtype: torch.dtype, chip: ChipLimits, is_sweep: bool) -> list[NamedRecipe]:
    """A dense weight: with the kernel's own geometry, or, for a sweep, with every candidate."""
    call = LinearCall(rows, shape.outputs, shape.inputs, _HALF, _HALF)
    product = Product(dtype, call, chip)
    if not is_sweep:
        return _recipes(product)[0]
    return [each for way in _ways(product) for each in _swept(way, product)]


def candidates(family: str, weight: Slabbed, rows: int, chip: ChipLimits) -> list[NamedRecipe]:
    """Every geometry of one family of kernels, or of the one way that is called so."""
    product = product_of(weight, rows, chip, input_dtype=_HALF, output_dtype=_HALF)
    start = _FAMILIES.get(family, family)
    return [each for way in _ways(product) if way.name.startswith(start) for each in _swept(way, product)]


def _recipes(product: Product) -> tuple[list[NamedRecipe], dict[str, str]]:
    found: list[NamedRecipe] = []
    unavailable: dict[str, str] = {}
    for way in _ways(product):
        try:
            found.append(_named(way.name, way, product, None))
        except Exception as error:
            unavailable[way.name] = f"no plan: {type(error).__name__}: {error}"
    return found, unavailable


def _ways(product: Product) -> Iterator[LinearWay]:
    """Those that the chip and the product allow."""
    chip, rows = product.chip, product.call.rows
    capability = "{}.{}".format(*chip.compute_capability)
    units = architectures()[capability].operations_per_clock_per_sm
    for way in LINEAR_WAYS:
        is_possible = units.get(way.unit) and way.needs(chip) is None and way.refusal(product) is None
        if is_possible and rows <= _MOST_ROWS.get(way.name, rows):
            yield way


def _swept(way: LinearWay, product: Product) -> list[NamedRecipe]:
    return [_named(label, way, product, plan) for label, plan in _labelled(way.name, way.candidates(product))]


def _named(name: str, way: LinearWay, product: Product, plan: LaunchPlan | None) -> NamedRecipe:
    """`plan`'s geometry; else what was found on this card (tune_linears.py), or the way's own."""
    geometry = _tuned().geometry(way, product) if plan is None else plan.geometry
    recipe = way.recipe(product, geometry)
    details: dict[str, object] = {"unit": way.unit, "products": way.products}
    if recipe.plans:
        details |= _geometry(recipe.main)
    return NamedRecipe(name, way.level, recipe, details)


@functools.cache
def _tuned() -> TunedLinears:
    if not torch.cuda.is_available():
        return TunedLinears()
    return TunedLinears.of(torch.cuda.get_device_name(), functools.partial(print, file=sys.stderr))


def _geometry(plan: LaunchPlan) -> dict[str, object]:
    return {
        "grid": list(plan.grid),
        "block": list(plan.block),
        "shared_bytes": plan.shared_bytes,
        "definitions": dict(plan.specialisation.definitions),
    }


def _labelled(name: str, plans: Sequence[LaunchPlan]) -> list[tuple[str, LaunchPlan]]:
    """Names that tell geometries apart: the definitions in which they differ, and their sizes."""
    if len(plans) == 1:
        return [(name, plans[0])]
    every = [dict(plan.specialisation.definitions) for plan in plans]
    differing = [key for key in every[0] if len({each.get(key) for each in every}) > 1] if every else []
    found: dict[str, LaunchPlan] = {}
    for plan, definitions in zip(plans, every, strict=True):
        chosen = " ".join(f"{key}={definitions.get(key)}" for key in differing)
        sizes = f"{'×'.join(map(str, plan.grid))} of {plan.block[0]}, {plan.shared_bytes / 1024:.1f} KiB"
        found.setdefault(f"{name}: {chosen} {sizes}", plan)
    return list(found.items())
