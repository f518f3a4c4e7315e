"""What each op costs: arithmetic by type and bytes moved, for given axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Axes = Mapping[str, int]
"""Symbolic axis -> size, e.g. {"M": 7, "K": 576, "N": 1536}."""


@dataclass(frozen=True)
class OpCost:
    """Costs of an op whose activations are fp32.

    Parameters
    ----------
    flop : arithmetic operations by type; a multiply-add counts 2.
    bytes_moved : bytes that have to cross the memory bus, weights not counted.
    """

    flop: Callable[[Axes], dict[str, float]]
    bytes_moved: Callable[[Axes], int]
