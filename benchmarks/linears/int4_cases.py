"""int4 in groups of 128, symmetric: all sides on one weight."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from linears import library_ways, our_recipes
from linears.cases import LEAST_STREAMED_BYTES, SHAPES, Shape
from linears.measure import Case, Maker
from linears.our_ways import NamedRecipe, WeightCopies, chip_limits, our_way
from linears.peer_ways import Peers
from linears.probes import Probes
from linears.weights import Int4Weight, exact_product, log_normal_inputs, random_int4
from pascaline.core.errors import PascalineError
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.weights.slabbed import Slabbed

_SEED = 7
_BUDGET_S = 0.35
_ROUNDS = (5, 15)
_SWEEP_BUDGET_S, _SWEEP_ROUNDS = 0.0, (3, 3)
_SWEPT_AT_ONCE = 24
"""Candidates that are timed in turns."""


class Int4Cases:
    """Keeps the weight of the shape that was asked for last."""

    def __init__(self, device: torch.device, peers: Path, announce: Callable[[str], None]) -> None:
        self._device = device
        self._announce = announce
        self._chip = chip_limits(device)
        self._probes = Probes(device)
        self._peers_path = peers
        self._weight: _Weight | None = None

    @functools.cached_property
    def _kernels(self) -> KernelSet:
        return KernelSet(self._device)

    @functools.cached_property
    def _peers(self) -> Peers:
        return Peers(self._peers_path)

    def compare(self, shape: str, rows: int, skip: Sequence[str]) -> dict[str, Any]:
        """All sides at one shape and M = `rows`; `skip` are names of ways to leave out."""
        weight = self._of(shape)
        inputs = log_normal_inputs(rows, weight.int4.shape.inputs, _generator(self._device, rows))
        case = Case(exact_product(inputs, weight.exact), self._announce)
        case.add_all(self._all_makers(weight, inputs, case), skip)
        read = self._probes.read(weight.copies.nbytes, LEAST_STREAMED_BYTES)
        found = case.time([read], _BUDGET_S, _ROUNDS)
        return found | {"read_s": found["ways"].pop(read.name)["median_s"], "read_bytes": read.weight_bytes}

    def sweep(self, shape: str, rows: int, family: str, skip: Sequence[str]) -> dict[str, Any]:
        """All candidates of one family of kernels, some at a time."""
        weight = self._of(shape)
        inputs = log_normal_inputs(rows, weight.int4.shape.inputs, _generator(self._device, rows))
        reference = exact_product(inputs, weight.exact)
        recipes = our_recipes.candidates(family, weight.slabbed, rows, self._chip)
        failed = self._build(recipes)
        ways: dict[str, Any] = {}
        for first in range(0, len(recipes), _SWEPT_AT_ONCE):
            case = Case(reference, self._announce)
            part = [each for each in recipes[first : first + _SWEPT_AT_ONCE] if each.name not in failed]
            case.add_all(self._our_makers(part, weight, inputs), skip)
            found = case.time([], _SWEEP_BUDGET_S, _SWEEP_ROUNDS)
            ways |= found["ways"]
            failed |= found["failed"]
        read = self._probes.read(weight.copies.nbytes, LEAST_STREAMED_BYTES)
        read_s = Case(reference, self._announce).time([read], 0.1, _ROUNDS)["ways"][read.name]["median_s"]
        return {"ways": ways, "failed": failed, "read_s": read_s}

    def _all_makers(self, weight: _Weight, inputs: torch.Tensor, case: Case) -> Iterator[tuple[str, Maker]]:
        rows, int4 = len(inputs), weight.int4
        recipes, unavailable = our_recipes.recipes(weight.slabbed, rows, self._chip)
        case.failed.update(unavailable)
        case.failed.update(self._build(recipes))
        yield from self._our_makers(
            [each for each in recipes if each.name not in case.failed], weight, inputs
        )
        least = LEAST_STREAMED_BYTES
        yield "exllama", lambda: self._peers.exllama(int4, inputs, least)
        yield "marlin", lambda: self._peers.marlin(int4, inputs, least)
        yield "torch fp16", lambda: library_ways.cublas_half(int4, inputs, least)
        yield "torch fp32", lambda: library_ways.cublas_single(int4, inputs, least)

    def _our_makers(
        self, recipes: Sequence[NamedRecipe], weight: _Weight, inputs: torch.Tensor
    ) -> Iterator[tuple[str, Maker]]:
        for recipe in recipes:
            yield recipe.name, partial(our_way, self._kernels, recipe, weight.copies, inputs)

    def _build(self, recipes: Sequence[NamedRecipe]) -> dict[str, str]:
        """Compile all at the same time; the reasons of those that do not compile."""
        self._announce("compiling")
        plans = [plan for named in recipes for plan in named.recipe.plans]
        try:
            self._kernels.build({plan.specialisation: None for plan in plans}, lambda _progress: None)
        except PascalineError:  # one of them: which, each says for itself
            return {each.name: reason for each in recipes if (reason := self._fault(each)) is not None}
        return {}

    def _fault(self, recipe: NamedRecipe) -> str | None:
        try:
            for plan in recipe.recipe.plans:
                self._kernels.function(plan.specialisation)
        except PascalineError as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _of(self, name: str) -> _Weight:
        if self._weight is None or self._weight.int4.shape.name != name:
            self._announce(f"the weight of {name}")
            self._weight = None  # the one before is given back first
            shape = next(each for each in SHAPES if each.name == name)
            self._weight = _Weight(shape, self._device)
        return self._weight


class _Weight:
    """One shape's weight and copies of it."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.int4: Int4Weight = random_int4(shape, _generator(device, 0))
        self.exact = self.int4.dequantised(torch.float64)
        self.slabbed: Slabbed = self.int4.slabbed()
        self.copies = WeightCopies.of(self.slabbed.shape, self.slabbed.buffers, LEAST_STREAMED_BYTES)


def _generator(device: torch.device, salt: int) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(_SEED + salt)
