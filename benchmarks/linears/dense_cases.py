"""Dense weights times a few rows: ours against cuBLAS, and against reading them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from linears import library_ways, our_recipes
from linears.cases import LEAST_STREAMED_BYTES, SHAPES
from linears.measure import Case
from linears.our_ways import WeightCopies, chip_limits, our_way
from linears.probes import Probes
from linears.weights import exact_product, log_normal_inputs
from pascaline.kernels.cuda.kernel_set import KernelSet

_SEED = 13
_BUDGET_S, _ROUNDS = 0.25, (5, 11)


class DenseCases:
    """In fp16."""

    def __init__(self, device: torch.device, announce: Callable[[str], None]) -> None:
        self._device = device
        self._announce = announce
        self._chip = chip_limits(device)
        self._kernels = KernelSet(device)
        self._probes = Probes(device)

    def measure(self, *, shape: str, rows: int, is_sweep: bool, skip: Sequence[str]) -> dict[str, Any]:
        """One shape and M; with every candidate geometry for a sweep."""
        self._announce(f"the dense weight of {shape}")
        size = next(each for each in SHAPES if each.name == shape)
        generator = torch.Generator(device=self._device).manual_seed(_SEED)
        weight = torch.randn(size.outputs, size.inputs, generator=generator, device=self._device).half()
        inputs = log_normal_inputs(rows, size.inputs, generator)
        case = Case(exact_product(inputs, weight.double()), self._announce)
        least = LEAST_STREAMED_BYTES
        copies = WeightCopies.of((size.outputs, size.inputs), {"weight": weight}, least)
        self._announce("compiling")
        for recipe in our_recipes.dense(size, rows, weight.dtype, self._chip, is_sweep):
            if recipe.name not in skip:
                case.add(recipe.name, partial(our_way, self._kernels, recipe, copies, inputs))
        case.add("torch fp16", lambda: library_ways.dense("torch fp16", "half", weight, inputs, least))
        read = self._probes.read(copies.nbytes, least)
        found = case.time([read], _BUDGET_S, _ROUNDS)
        return found | {"read_s": found["ways"].pop(read.name)["median_s"], "read_bytes": read.weight_bytes}
