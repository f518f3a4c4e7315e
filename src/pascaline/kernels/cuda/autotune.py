"""The search for the fastest geometry of a linear's ways on the card at hand."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator

import torch

from pascaline.core.errors import CompileError, PascalineError
from pascaline.core.progress import ProgressCallback
from pascaline.hardware.roofline import Roofline
from pascaline.kernels import linear
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.linear_product import Product, product_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.kernels.cuda.recipe import BoundRecipe, Recipe
from pascaline.kernels.cuda.tuned import Found, TunedLinears
from pascaline.kernels.kernel import Workspace
from pascaline.kernels.levels import is_within
from pascaline.weights import Dense, Slabbed

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512)
"""Steps that are searched."""
MOST_CANDIDATES = 40
"""Of a way: its planner puts those that it likes first."""
WORTH_TRYING = 4.0
"""Times the shortest prediction, up to which a way is measured."""
_SHORT_LIST = 4
"""Geometries that are measured again, by more rounds, after a first look at all."""
_LOOK_ROUNDS, _ROUNDS = 1, 7
_STREAMED_BYTES = 200_000_000
"""Of a weight's copies: no cache holds one until its next turn."""
_LEAST_S = 1e-3
"""Of one round, by repeating all copies."""

_MOST_ERROR = 0.05
"""‖y − y₃₂‖ / ‖y₃₂‖: inputs of 8 bits err by a third of it."""


class CandidateError(Exception):
    """A candidate does not compile or run, or its numbers are wrong."""


Timer = Callable[[Product, Recipe, int], float]
"""Seconds of a product, the median of so many rounds, by steps that are bound to memory of the timer's."""


def products_of(weight: Dense | Slabbed, kernels: KernelSet, rows: Iterable[int] = ROWS) -> list[Product]:
    """What is searched for a weight of this form and size."""
    return [product_of(weight, each, kernels.limits) for each in rows]


def build_candidates(
    weights: Iterable[Dense | Slabbed],
    kernels: KernelSet,
    roofline: Roofline,
    report: ProgressCallback,
    rows: Iterable[int] = ROWS,
) -> None:
    """Compile all that a search over `weights` measures, at once, and set apart memory for it.

    What does not compile the search finds out.

    Raises
    ------
    CudaError : a kernel does not load.
    """
    listed = tuple(rows)
    recipes = [
        recipe
        for weight in weights
        for product in products_of(weight, kernels, listed)
        for way in worth_trying(product, weight.resident_bytes, roofline)
        for _, recipe in _candidates(way, product)
    ]
    found = dict.fromkeys(plan.specialisation for recipe in recipes for plan in recipe.plans)
    with contextlib.suppress(CompileError):  # of one: the search leaves it out
        kernels.build(found, report)
    kernels.reserve(recipes)


def tune_product(
    product: Product, weight_bytes: int, roofline: Roofline, known: TunedLinears, timer: Timer
) -> TunedLinears:
    """`known`, and the fastest geometry of each way that may be the fastest.

    Raises
    ------
    RuntimeError : the card's context is lost.
    """
    for way in worth_trying(product, weight_bytes, roofline):
        looked: list[tuple[float, int, object, Recipe]] = []
        for place, (geometry, recipe) in enumerate(_candidates(way, product)):
            with contextlib.suppress(CandidateError):
                looked.append((timer(product, recipe, _LOOK_ROUNDS), place, geometry, recipe))
        looked.sort(key=lambda each: each[:2])
        timed: list[tuple[float, int, object]] = []
        for _, place, geometry, recipe in looked[:_SHORT_LIST]:
            with contextlib.suppress(CandidateError):
                timed.append((timer(product, recipe, _ROUNDS), place, geometry))
        if timed:
            seconds, _, geometry = min(timed, key=lambda each: each[:2])
            known = known.with_found(way, product, Found(geometry, seconds))
    return known


def worth_trying(product: Product, weight_bytes: int, roofline: Roofline) -> list[LinearWay]:
    """Ways whose prediction is near to the shortest of those that are as exact as they are."""
    predicted = {
        way: way.predicted_s(product, weight_bytes, roofline)
        for way in LINEAR_WAYS
        if roofline.operations_per_s.get(way.unit)
        and way.needs(product.chip) is None
        and way.refusal(product) is None
    }
    return [
        way
        for way, seconds in predicted.items()
        if seconds
        <= WORTH_TRYING * min(each for other, each in predicted.items() if is_within(other.level, way.level))
    ]


def _candidates(way: LinearWay, product: Product) -> Iterator[tuple[object, Recipe]]:
    """Geometries, and the recipes with them; None where there is no choice."""
    geometries = list(dict.fromkeys(plan.geometry for plan in way.candidates(product)))[:MOST_CANDIDATES]
    for geometry in geometries or [None]:
        yield geometry, way.recipe(product, geometry)


class CardTimer:
    """Times on a card, by CUDA graphs over copies of a weight: no cache holds one until its next turn."""

    def __init__(self, kernels: KernelSet, weight: Dense | Slabbed) -> None:
        buffers = {"weight": weight.tensor} if isinstance(weight, Dense) else weight.buffers
        more = -(-_STREAMED_BYTES // weight.resident_bytes) - 1
        clones = [{name: tensor.clone() for name, tensor in buffers.items()} for _ in range(more)]
        self._kernels, self._weight = kernels, weight
        self._copies = [dict(buffers), *clones]
        self._workspace = Workspace(kernels.device)
        self._operands: tuple[Product, torch.Tensor, torch.Tensor] | None = None

    def __call__(self, product: Product, recipe: Recipe, rounds: int) -> float:
        """Of one product, the median of so many rounds.

        Raises
        ------
        CandidateError : it does not run, or is another product than plain torch's.
        RuntimeError : the card's context is lost.
        """
        x, expected = self._given(product)
        try:
            return self._time(x, expected, recipe, rounds)
        except (PascalineError, RuntimeError) as error:
            torch.cuda.synchronize(self._kernels.device)
            raise CandidateError(str(error)) from error

    def _time(self, x: torch.Tensor, expected: torch.Tensor, recipe: Recipe, rounds: int) -> float:
        y = torch.full_like(expected, torch.nan)
        handed_on = self._kernels.handed_on(recipe.handed_on)
        fixed = {"x": x, "y": y, "bias": None, **handed_on}
        bound = [BoundRecipe(self._kernels, recipe, {**copy, **fixed}, ()) for copy in self._copies]

        def launch() -> None:
            stream = torch.cuda.current_stream(self._kernels.device).cuda_stream
            for each in bound:
                each(stream)

        launch()
        error = float((y - expected).norm() / expected.norm())
        if not error <= _MOST_ERROR:  # true for NaN
            raise CandidateError(f"{error:.2g} off")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch()
        once_s = _seconds(graph, 1)
        repeats = max(1, round(_LEAST_S / once_s))
        return statistics.median(_seconds(graph, repeats) for _ in range(rounds)) / len(bound)

    def _given(self, product: Product) -> tuple[torch.Tensor, torch.Tensor]:
        """x, and the product by plain torch, both fp32; the same for all candidates."""
        if self._operands is None or self._operands[0] != product:
            call, device = product.call, self._kernels.device
            x = torch.randn(call.rows, call.columns, device=device)
            y = torch.empty(call.rows, call.outputs, device=device)
            linear.launch(x, self._weight, None, out=y, workspace=self._workspace)
            self._operands = product, x, y
        return self._operands[1:]


def _seconds(graph: torch.cuda.CUDAGraph, repeats: int) -> float:
    """Of one replay, of so many in a row."""
    # torch gives its events no types.
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own
    stop = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own
    start.record()
    for _ in range(repeats):
        graph.replay()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3 / repeats
