"""Predicted speeds of published figures, and the fit of the shares that they depend on.

The model is the planner's: a launch takes the longer of its arithmetic and its memory traffic, each at a
share of the card's limit, and a fixed time beside. docs/explanation/speed-model.md describes it.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.published import Figure
from pascaline.hardware.architectures import Arithmetic, capability_numbers
from pascaline.hardware.efficiency import library_efficiency
from pascaline.hardware.gpus import Gpu
from pascaline.plan.latency import PARTS_OF_NEIGHBOURS
from pascaline.workload.step import StepShape, launches

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Maxwell and Pascal": ("5.0", "5.2", "5.3", "6.0", "6.1", "6.2"),
    "Volta and Turing": ("7.0", "7.2", "7.5"),
    "Ampere and newer, data centre": ("8.0", "9.0", "10.0", "10.3"),
    "Ampere and newer, GDDR": ("8.6", "8.7", "8.9", "12.0", "12.1"),
}
"""Compute capabilities that share the share of bandwidth."""
ERAS = {
    "Maxwell and Pascal": "before tensor cores",
    "Volta and Turing": "first tensor cores",
    "Ampere and newer, data centre": "later tensor cores",
    "Ampere and newer, GDDR": "later tensor cores",
}
"""Group -> groups that share the shares of arithmetic."""

MOST_BANDWIDTH = 0.95
"""No figure shows more than 0.9, launches included: without a limit, the fit pays for launches with it."""
_KV_BYTES = 2
_STEPS = tuple(1.25 ** (step / 2**level) for level in range(8) for step in (-1, 1))


@dataclass(frozen=True)
class Factors:
    """What is fitted. `compute` : by era and arithmetic; `bandwidth` : by group; `launch_s` : by kind."""

    compute: Mapping[tuple[str, Arithmetic], float]
    bandwidth: Mapping[str, float]
    launch_s: Mapping[str, float]


@dataclass(frozen=True)
class Work:
    """What a figure's launches do, equal ones together, one row a kind.

    `linear` and `other` : operations, of products with weights and of all else, which is attention but for
    what memory bounds anyway; `moved_bytes` ; `launches` : 0 where it is part of its neighbour's; `count`.
    """

    linear: NDArray[np.float64]
    other: NDArray[np.float64]
    moved_bytes: NDArray[np.float64]
    launches: NDArray[np.float64]
    count: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Case:
    """A published speed with the work that its tokens take."""

    figure: Figure
    work: Work

    @property
    def tokens(self) -> int:
        """That the work is of: a prompt's, or one."""
        return self.figure.tokens if self.figure.phase == "prefill" else 1

    @property
    def published_s(self) -> float:
        return self.tokens / self.figure.tokens_per_s


def cases_of(figures: Iterable[Figure]) -> list[Case]:
    """The figures with their work."""
    return [Case(figure, _work(figure)) for figure in figures]


def group_of(card: Gpu) -> str:
    """The group that a card's capability belongs to."""
    return next(name for name, members in GROUPS.items() if card.compute_capability in members)


def unit_of(case: Case) -> tuple[str, Arithmetic]:
    """Era and arithmetic whose factor a case has: both half formats have tensor cores of one rate."""
    unit = case.figure.arithmetic
    return ERAS[group_of(case.figure.card)], "tensor_fp16" if unit == "tensor_bf16" else unit


def limit(figure: Figure) -> float:
    """Operations a second of the unit that multiplies the figure's weights, at the maximum clock."""
    card, unit = figure.card, figure.arithmetic
    if figure.half_accumulation:
        of_chip = card.architecture.operations_per_clock_per_sm[unit]
        return card.sms * of_chip * card.max_mhz * 1e6
    return card.operations_per_s(unit, card.max_mhz)


def _work(figure: Figure) -> Work:
    """Every launch that the figure's tokens take, a prompt's passes together."""
    passes = (
        [(min(figure.microbatch, figure.tokens - start), start) for start in _starts(figure)]
        if figure.phase == "prefill"
        else [(1, figure.tokens)]
    )
    kinds = Counter(kind for new, before in passes for kind in _kinds(figure, new, before))
    linear, other, moved_bytes, launched = np.array(list(kinds), dtype=np.float64).T
    return Work(linear, other, moved_bytes, launched, np.array(list(kinds.values()), dtype=np.float64))


def _starts(figure: Figure) -> range:
    return range(0, figure.tokens, figure.microbatch)


def _kinds(figure: Figure, new: int, before: int) -> Iterator[tuple[float, float, float, float]]:
    """(operations with weights, others, bytes, launches) of each op of `new` tokens after `before`."""
    ends = before + new >= figure.tokens
    shape = StepShape(
        new_tokens=(new,),
        context_tokens=(before + new,),
        logit_rows=int(figure.computes_logits and (figure.phase == "decode" or ends)),
    )
    previous = None
    for launch in launches(figure.model.config, shape, key_value_element_bytes=_KV_BYTES):
        flop = sum(launch.flop_by_type.values())
        this = launch.module, launch.op
        launched = float(launch.op not in PARTS_OF_NEIGHBOURS and this != previous)
        previous = this
        if launch.op != "linear":
            yield 0.0, flop, float(launch.moved_bytes), launched
        elif launch.axes["M"] > 0:
            is_head = launch.module == "lm_head"
            bits = figure.format.head_bits if is_head else figure.format.bits
            weight_bytes = launch.axes["K"] * launch.axes["N"] * bits / 8
            yield flop, 0.0, launch.moved_bytes + weight_bytes, launched


def predicted_s(case: Case, factors: Factors) -> float:
    """Seconds that the model gives for the case's tokens."""
    figure, work = case.figure, case.work
    group = group_of(figure.card)
    others_unit = _unit_of_attention(figure.card)
    share = factors.compute.get(unit_of(case), _UNFITTED)
    others_share = factors.compute.get((ERAS[group], others_unit))
    if others_share is None:
        others_share = _library_share(figure.card.compute_capability, others_unit)
    launch_s = factors.launch_s["recorded" if figure.phase == "prefill" else figure.launches]
    compute_s = work.linear / (limit(figure) * share) + work.other / (
        figure.card.operations_per_s(others_unit, figure.card.max_mhz) * others_share
    )
    memory_s = work.moved_bytes / (figure.card.bandwidth_gb_per_s * 1e9 * factors.bandwidth[group])
    return float(np.sum(work.count * (np.maximum(compute_s, memory_s) + work.launches * launch_s)))


_UNFITTED = 0.5
"""Of units that no figure depends on: in decoding, memory bounds whatever the unit is."""


@functools.cache
def _library_share(compute_capability: str, arithmetic: Arithmetic) -> float:
    """What `efficiency_of` falls back to; as last written, for it does not depend on the fit."""
    return library_efficiency(compute_capability, arithmetic)[0]


def _unit_of_attention(card: Gpu) -> Arithmetic:
    has_tensor_cores = card.operations_per_s("tensor_fp16", card.max_mhz) > 0
    return "tensor_fp16" if has_tensor_cores else "fp32"


def roof_s(case: Case) -> tuple[float, Literal["compute", "memory"]]:
    """The least seconds that the card's limits allow for the case's tokens, and which of them it is.

    Only products with weights count as arithmetic: what unit computes the rest, a source does not say.
    """
    work, card = case.work, case.figure.card
    compute_s = float(np.sum(work.count * work.linear)) / limit(case.figure)
    memory_s = float(np.sum(work.count * work.moved_bytes)) / (card.bandwidth_gb_per_s * 1e9)
    return (compute_s, "compute") if compute_s > memory_s else (memory_s, "memory")


def errors(cases: Sequence[Case], factors: Factors) -> NDArray[np.float64]:
    """Predicted over published speed, less one."""
    return np.array([case.published_s / predicted_s(case, factors) - 1 for case in cases])


def fit(cases: Sequence[Case]) -> Factors:
    """The factors with the least sum of absolute logarithms of predicted over published speed.

    One factor is changed at a time, by steps that get smaller, until none helps: it ends at the same
    factors whenever it begins at the same ones.
    """
    units = {unit_of(case) for case in cases if case.figure.phase == "prefill"}
    factors = Factors(
        compute=dict.fromkeys(sorted(units), 0.4),
        bandwidth=dict.fromkeys(GROUPS, 0.7),
        launch_s={"separate": 8e-6, "recorded": 3e-6},
    )
    best = _loss(cases, factors)
    improved = True
    while improved:
        improved = False
        for changed in _neighbours(factors):
            loss = _loss(cases, changed)
            if loss < best - 1e-9:
                factors, best, improved = changed, loss, True
                break
    return factors


def _loss(cases: Sequence[Case], factors: Factors) -> float:
    return sum(abs(math.log(predicted_s(case, factors) / case.published_s)) for case in cases)


def _neighbours(factors: Factors) -> list[Factors]:
    """The factors with one of them changed, larger changes first; shares stay shares."""
    changes: list[Factors] = []
    for step in _STEPS:
        changes += [
            replace(factors, compute={**factors.compute, key: min(value * step, 1.0)})
            for key, value in factors.compute.items()
        ]
        changes += [
            replace(factors, bandwidth={**factors.bandwidth, key: min(value * step, MOST_BANDWIDTH)})
            for key, value in factors.bandwidth.items()
        ]
        changes += [
            replace(factors, launch_s={**factors.launch_s, key: value * step})
            for key, value in factors.launch_s.items()
        ]
    return changes


def errors_of_unseen_cards(cases: Sequence[Case]) -> list[tuple[Case, float]]:
    """Errors where no figure of the card itself was fitted on.

    Cards are parted by turns, oldest capability first, and each part is predicted by a fit on the other. A
    figure whose arithmetic only its own part has figures of is left out.
    """
    cards = sorted(
        {(capability_numbers(case.figure.card.compute_capability), case.figure.card.name) for case in cases}
    )
    parts: tuple[list[Case], list[Case]] = ([], [])
    turn = {name: index % 2 for index, (_, name) in enumerate(cards)}
    for case in cases:
        parts[turn[case.figure.card.name]].append(case)
    found: list[tuple[Case, float]] = []
    for seen, unseen in (parts, parts[::-1]):
        factors = fit(seen)
        known = [case for case in unseen if case.figure.phase == "decode" or unit_of(case) in factors.compute]
        found += zip(known, errors(known, factors).tolist(), strict=True)
    return found


def halves(figures: Sequence[Figure]) -> tuple[list[Figure], list[Figure]]:
    """The counted figures: half to fit on, half held out.

    In order of phase, card, model and format, one goes to the fit, two are held out, and one goes to the fit:
    turns by which neither half gets the smaller one of every pair.
    """

    def order(figure: Figure) -> tuple[object, ...]:
        return (
            figure.phase,
            figure.card.name,
            figure.model.name,
            figure.format.name,
            figure.tokens,
            figure.microbatch,
            figure.url,
        )

    counted = sorted((figure for figure in figures if not figure.not_counted), key=order)
    return counted[::4] + counted[3::4], counted[1::4] + counted[2::4]
