"""The text of efficiency.toml."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from harness.published import LibraryFigure
from harness.speed_model import ERAS, GROUPS, Case, Factors, group_of
from pascaline.hardware.architectures import Arithmetic, capability_numbers

_HEAD = """\
# Shares of their limits at the maximum clock that cards reach. Written by benchmarks/fit_efficiency.py from
# benchmarks/published_figures.toml: change those, not this. The model: docs/explanation/speed-model.md
"""
_SPREAD_QUANTILE = 2 / 3
_LIBRARY_QUANTILE = 1 / 4
"""Three of four cards reach it: what a remedy gains is not to be promised too high."""
_SAME_RATE: tuple[tuple[Arithmetic, Arithmetic], ...] = (("tensor_bf16", "tensor_fp16"),)
_DP4A_ERA = "before tensor cores"


def efficiency_toml(
    factors: Factors, unseen: Sequence[tuple[Case, float]], library: Iterable[LibraryFigure]
) -> str:
    """The fitted factors, the spread of `errors_of_unseen_cards`, and the library's shares."""
    sections = [_HEAD]
    for group, capabilities in GROUPS.items():
        of_group = [abs(error) for case, error in unseen if group_of(case.figure.card) == group]
        sections.append(
            "[[group]]\n"
            f"compute_capabilities = {_list(capabilities)}\n"
            f"bandwidth = {factors.bandwidth[group]:.3f}\n"
            f"launch_s = {factors.launch_s['recorded']:.2e}\n"
            f"separate_launch_s = {factors.launch_s['separate']:.2e}\n"
            f"spread = {float(np.quantile(of_group, _SPREAD_QUANTILE)):.2f}\n"
            f'source = "{group}: fitted to speeds of other engines (benchmarks/published_figures.toml)"\n'
            f"shares = {_table(_shares(factors, group))}\n"
        )
    shares: dict[str, dict[str, list[float]]] = {}
    cards: dict[str, list[str]] = {}
    for figure in library:
        capability = figure.card.compute_capability
        shares.setdefault(capability, {}).setdefault(figure.arithmetic, []).append(figure.share)
        cards.setdefault(capability, []).append(figure.card.name)
    for capability in sorted(shares, key=capability_numbers):
        reached = {
            unit: float(np.quantile(values, _LIBRARY_QUANTILE)) for unit, values in shares[capability].items()
        }
        names = ", ".join(dict.fromkeys(cards[capability]))
        sections.append(
            "[[library]]\n"
            f"compute_capabilities = {_list([capability])}\n"
            f'source = "large matrix products by the vendor\'s library on {names}"\n'
            f"shares = {_table(reached)}\n"
        )
    return "\n".join(sections)


def _shares(factors: Factors, group: str) -> dict[str, float]:
    """By arithmetic: of the group's era, and of dp4a for all, which only the oldest has figures of."""
    era = ERAS[group]
    shares: dict[str, float] = {unit: share for (of, unit), share in factors.compute.items() if of == era}
    shares.setdefault("int8", factors.compute[_DP4A_ERA, "int8"])
    for other, unit in _SAME_RATE:
        if unit in shares:
            shares[other] = shares[unit]
    return dict(sorted(shares.items()))


def _table(shares: dict[str, float]) -> str:
    return "{ " + ", ".join(f"{unit} = {share:.3f}" for unit, share in shares.items()) + " }"


def _list(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"
