"""Pascaline's linears: launch plans bound to copies of a weight in slabs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from linears.way import Way, copies_of
from pascaline.hardware.cuda_driver import Device
from pascaline.kernels.cuda.recipe import BoundRecipe, Kernels, Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits

_MOST_SHARED_BYTES = 97  # CUdevice_attribute: a block may have so many, opted in

_MARGIN = 1024
"""Elements before and behind an output, which nothing may write."""


@dataclass(frozen=True)
class NamedRecipe:
    """One way of ours to compute a linear.

    Parameters
    ----------
    accuracy : a level of kernels: "exact", "rounded" or "fast".
    details : geometry and the like, for tables.
    """

    name: str
    accuracy: str
    recipe: Recipe
    details: Mapping[str, Any] = field(default_factory=dict)
    input_dtype: torch.dtype = torch.float16
    output_dtype: torch.dtype = torch.float16


def chip_limits(device: torch.device) -> ChipLimits:
    """Of the card that torch computes on."""
    properties = torch.cuda.get_device_properties(device)
    return ChipLimits(
        compute_capability=(properties.major, properties.minor),
        multiprocessors=properties.multi_processor_count,
        shared_bytes_per_block=Device(torch.cuda.current_device()).attribute(_MOST_SHARED_BYTES),
    )


@dataclass(frozen=True)
class WeightCopies:
    """A weight (N, K) as often as no cache keeps one until its next turn; all ways use the same copies.

    Parameters
    ----------
    nbytes : of one copy.
    buffers : of each copy, by their names as kernels' arguments.
    """

    shape: tuple[int, int]
    nbytes: int
    buffers: list[dict[str, torch.Tensor]]

    @classmethod
    def of(
        cls, shape: tuple[int, int], buffers: Mapping[str, torch.Tensor], least_streamed_bytes: int
    ) -> WeightCopies:
        """`buffers`, and clones of them."""
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in buffers.values())
        more = copies_of(nbytes, least_streamed_bytes) - 1
        clones = [{name: tensor.clone() for name, tensor in buffers.items()} for _ in range(more)]
        return cls(shape, nbytes, [dict(buffers), *clones])


def our_way(kernels: Kernels, recipe: NamedRecipe, weight: WeightCopies, inputs: torch.Tensor) -> Way:
    """`recipe` bound to memory; `inputs` is x (M, K) in fp16."""
    rows, device = len(inputs), inputs.device
    x = inputs.to(recipe.input_dtype)
    count = rows * weight.shape[0]
    whole = torch.full((count + 2 * _MARGIN,), float("nan"), dtype=recipe.output_dtype, device=device)
    output = whole[_MARGIN : _MARGIN + count].view(rows, -1)
    handed_on = {
        name: torch.empty(shape, dtype=dtype, device=device)
        for name, (shape, dtype) in recipe.recipe.handed_on.items()
    }
    shared = {"x": x, "y": output, **handed_on}
    bound = [BoundRecipe(kernels, recipe.recipe, {**copy, **shared}, ()) for copy in weight.buffers]

    def launch(copy: int) -> None:
        bound[copy](torch.cuda.current_stream().cuda_stream)

    def is_intact() -> bool:
        return bool(whole[:_MARGIN].isnan().all()) and bool(whole[_MARGIN + count :].isnan().all())

    details = dict(recipe.details) | {"launches": len(recipe.recipe.steps)}
    return Way(
        *(recipe.name, "ours", recipe.accuracy, len(bound), weight.nbytes, launch, output, is_intact, details)
    )
