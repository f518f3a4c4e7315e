"""Linears on a card, computed: each bound to memory once for a weight and a number of rows."""

from __future__ import annotations

import functools

import torch

from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.linear_product import Product, product_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.recipe import BoundRecipe, Recipe
from pascaline.kernels.cuda.tuned import TunedLinears
from pascaline.weights import Dense, Slabbed

ALIGNMENT_BYTES = 16
"""Of operands: kernels read vectors of so many bytes."""
_MOVING_BUFFERS = ("x", "bias", "y")


class LinearRunner:
    """An engine's; not thread-safe."""

    MOST_BOUND = 16384
    """Beyond it the table starts anew: a bound on memory."""

    def __init__(self, kernels: KernelSet, tuned: TunedLinears) -> None:
        self.kernels = kernels
        self._tuned = tuned
        self._bound: dict[tuple[object, ...], tuple[Dense | Slabbed, BoundRecipe]] = {}
        self._recipes: dict[tuple[str, Product], tuple[Recipe, dict[str, torch.Tensor]]] = {}
        """With what is handed on: of all layers of one shape, which are bound one by one."""

    def __call__(
        self,
        way: LinearWay,
        x: torch.Tensor,
        weight: Dense | Slabbed,
        bias: torch.Tensor | None,
        out: torch.Tensor,
        *,
        is_gated: bool = False,
    ) -> None:
        """Compute x (M, K) · weightᵀ (+ bias) into `out` (M, N) in torch's current stream.

        With `is_gated`, SiLU of its first half times the second, into `out` (M, N / 2).

        Raises
        ------
        CompileError, CudaError : a kernel does not compile, load or launch.
        """
        bias_dtype = None if bias is None else bias.dtype
        key = (way.name, x.shape[0], id(weight), x.dtype, out.dtype, bias_dtype, is_gated)
        found = self._bound.get(key)
        if found is None:
            if len(self._bound) >= self.MOST_BOUND:
                self._bound.clear()
                self._recipes.clear()
            # With its weight: as long as that is held, no other has its identity.
            found = self._bound[key] = weight, self._bind(way, x, weight, bias, out, is_gated)
        stream = torch._C._cuda_getCurrentRawStream(out.device.index)
        found[1](stream, x=_aligned(x), bias=None if bias is None else _aligned(bias), y=out)

    def _bind(
        self,
        way: LinearWay,
        x: torch.Tensor,
        weight: Dense | Slabbed,
        bias: torch.Tensor | None,
        out: torch.Tensor,
        is_gated: bool,
    ) -> BoundRecipe:
        product = product_of(
            weight,
            x.shape[0],
            self.kernels.limits,
            input_dtype=x.dtype,
            output_dtype=out.dtype,
            bias_dtype=None if bias is None else bias.dtype,
            is_gated=is_gated,
        )
        found = self._recipes.get((way.name, product))
        if found is None:
            recipe = recipe_of(way, product, self._tuned.geometry(way, product))
            found = self._recipes[way.name, product] = recipe, self.kernels.handed_on(recipe.handed_on)
        recipe, handed_on = found
        operands = {"weight": weight.tensor} if isinstance(weight, Dense) else weight.buffers
        return BoundRecipe(self.kernels, recipe, {**operands, **handed_on}, _MOVING_BUFFERS)


@functools.lru_cache(maxsize=4096)
def recipe_of(way: LinearWay, product: Product, geometry: object) -> Recipe:
    """The way's recipe, which layers of one shape share; a geometry of None is the kernel's own choice."""
    return way.recipe(product, geometry)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """In one piece that begins where vectors may."""
    return tensor if is_in_one_piece(tensor) else tensor.clone(memory_format=torch.contiguous_format)


def is_in_one_piece(tensor: torch.Tensor) -> bool:
    """Whether it is in order, and begins where vectors may."""
    return tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT_BYTES == 0
