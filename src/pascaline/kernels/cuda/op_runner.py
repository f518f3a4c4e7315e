"""Launches of ops on a card whose operands all move: planned once for operands that are alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch

from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.recipe import BoundRecipe, Recipe

Buffers = Mapping[str, torch.Tensor | None]


class OpRunner:
    """An engine's; not thread-safe."""

    MOST_BOUND = 16384
    """Beyond it the table starts anew: a bound on memory."""

    def __init__(self, kernels: KernelSet) -> None:
        self.limits = kernels.limits
        self._kernels = kernels
        self._bound: dict[Hashable, BoundRecipe] = {}

    def __call__(self, key: Hashable, make: Callable[[], Recipe], buffers: Buffers) -> None:
        """Launch the recipe that `key` stands for, which `make` makes the first time, in torch's stream.

        Raises
        ------
        CompileError, CudaError : a kernel does not compile, load or launch.
        """
        found = self._bound.get(key)
        if found is None:
            if len(self._bound) >= self.MOST_BOUND:
                self._bound.clear()
            recipe = make()
            handed_on = self._kernels.handed_on(recipe.handed_on)
            found = self._bound[key] = BoundRecipe(self._kernels, recipe, handed_on, tuple(buffers))
        stream = torch._C._cuda_getCurrentRawStream(self._kernels.ordinal)
        found(stream, **buffers)
