"""Other forms of weights at M = 1, each beside int4 in the same run."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from linears import our_recipes
from linears.cases import LEAST_STREAMED_BYTES, SHAPES
from linears.measure import Case
from linears.our_ways import WeightCopies, chip_limits, our_way
from linears.way import Way
from linears.weights import log_normal_inputs, random_int4
from pascaline.core.errors import PascalineError
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.packed_cases import PACKED_FORMS, PackedForm, random_packed
from pascaline.weights.slab_layout import to_slabs

FORMS = {
    "8 bits": PackedForm(8, 128, (1,), zero=128),
    "6 bits": PackedForm(6, 128, (2, 4), zero=32),
    "5 bits": PackedForm(5, 128, (2, 8), zero=16),
    "3 bits": PackedForm(3, 128, (4, 8), zero=4),
    "2 bits": PackedForm(2, 128, (4,), zero=2),
    "Q4_K": PACKED_FORMS["Q4_K"],
    "Q6_K": PACKED_FORMS["Q6_K"],
    "IQ4_NL": PackedForm(4, 32, (32,), table=True),
    "MXFP4": PACKED_FORMS["MXFP4"],
}
_SEED = 11
_BUDGET_S, _ROUNDS = 0.25, (5, 11)
_PIECE = 4096
INT4 = "int4: "
"""Before the names of the ways with 4-bit weights in groups of 128 that are timed beside."""


@functools.cache
def _kernels(device: torch.device) -> KernelSet:
    return KernelSet(device)


def measure_format(
    *,
    device: torch.device,
    announce: Callable[[str], None],
    format: str,  # noqa: A002 - the request's field
    shape: str,
    family: str | None,
    skip: Sequence[str],
) -> dict[str, Any]:
    """Times of one form and of int4 at M = 1, and the bytes of each: of the file, and in slabs.

    With every geometry of `family`, if there is one.
    """
    announce(f"the weight of {shape} in {format}")
    size = next(each for each in SHAPES if each.name == shape)
    packed = random_packed(FORMS[format], size.outputs, size.inputs, torch.Generator().manual_seed(_SEED)).to(
        device
    )
    file_bytes = packed.resident_bytes
    slabbed = to_slabs(packed)
    generator = torch.Generator(device=device).manual_seed(_SEED)
    inputs = log_normal_inputs(1, size.inputs, generator)
    reference = torch.empty(1, size.outputs, dtype=torch.float64, device=device)
    for first in range(0, size.outputs, _PIECE):
        last = min(first + _PIECE, size.outputs)
        piece = torch.empty(last - first, size.inputs, dtype=torch.float64, device=device)
        packed.dequantise(first, last, piece)
        reference[:, first:last] = inputs.double() @ piece.t()
    kernels, chip = _kernels(device), chip_limits(device)
    case = Case(reference, announce)
    recipes, unavailable = our_recipes.recipes(slabbed, 1, chip)
    if family is not None:
        recipes, unavailable = our_recipes.candidates(family, slabbed, 1, chip), {}
    case.failed.update(unavailable)
    copies = WeightCopies.of(slabbed.shape, slabbed.buffers, LEAST_STREAMED_BYTES)
    announce("compiling")
    with contextlib.suppress(PascalineError):  # of one: it says so itself
        kernels.build(
            {plan.specialisation: None for each in recipes for plan in each.recipe.plans},
            lambda _progress: None,
        )
    for recipe in recipes:
        if recipe.name not in skip:
            case.add(recipe.name, partial(our_way, kernels, recipe, copies, inputs))
    int4_weight = random_int4(size, generator).slabbed()
    int4 = WeightCopies.of(int4_weight.shape, int4_weight.buffers, LEAST_STREAMED_BYTES)
    beside: list[Way] = []
    for recipe in our_recipes.recipes(int4_weight, 1, chip)[0]:
        name = INT4 + recipe.name
        if recipe.accuracy == "exact" and name not in skip:
            way = our_way(kernels, replace(recipe, name=name), int4, inputs)
            way.launch(0)
            beside.append(way)
    torch.cuda.synchronize()
    return case.time(beside, _BUDGET_S, _ROUNDS) | {
        "file_bytes": file_bytes,
        "read_bytes": slabbed.resident_bytes,
        "int4_bytes": int4.nbytes,
    }
