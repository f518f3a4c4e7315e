"""What each op costs: arithmetic by type and bytes moved, for given axes.

Axes are the op's own symbols (kernels/<op>.py says what they mean). Attention and the cache have some
beside them, that a step knows and shapes do not; without them the bounds of the shapes count:

- J: pairs of a new token and a token that it sees; at most T · W · B, the page table's whole width.
- L: tokens whose keys and values are read; at most S · W · B.
- E: bytes of an element of the cache; 4 where it is not said. Those of one byte are codes, a head of which
  has a scale.
"""

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


SCALE_BYTES = 4
"""Of what the codes of a token's head are multiplied with: fp32."""


def head_bytes(head_dim: int, element_bytes: int) -> int:
    """What a token's key or value of one head takes in the cache, its scale included."""
    return head_dim * element_bytes + (SCALE_BYTES if element_bytes == 1 else 0)


def _copy(_: Axes) -> dict[str, float]:
    """No arithmetic."""
    return {}


def _element_by_element(flop: float, read_and_written: int, rows: str, columns: str) -> OpCost:
    """An op of `flop` operations an element, for which so many fp32 arrays (rows, columns) are moved."""
    return OpCost(
        lambda axes: {"fp32": flop * axes[rows] * axes[columns]},
        lambda axes: 4 * read_and_written * axes[rows] * axes[columns],
    )


def _attention_flop(axes: Axes) -> dict[str, float]:
    """A product of D elements for each score, and one for its share of the output."""
    pairs = axes.get("J", axes["T"] * axes.get("W", 0) * axes.get("B", 0))
    return {"fp32": 4.0 * axes["H"] * axes["D"] * pairs}


def _attention_bytes(axes: Axes) -> int:
    """Each sequence's keys and values once, queries, and the output."""
    tokens = axes.get("L", axes["S"] * axes.get("W", 0) * axes.get("B", 0))
    cached = 2 * tokens * axes["KV"] * head_bytes(axes["D"], axes.get("E", 4))
    return cached + 8 * axes["T"] * axes["H"] * axes["D"]


OP_COSTS: Mapping[str, OpCost] = {
    "embedding": OpCost(_copy, lambda axes: 4 * axes["T"] * axes["C"]),
    "scale": _element_by_element(1.0, 2, "T", "C"),
    "rms_norm": OpCost(
        lambda axes: {"fp32": 4.0 * axes["T"] * axes["C"]},
        lambda axes: 8 * axes["T"] * axes["C"] + 4 * axes["C"],
    ),
    "head_norm": OpCost(
        lambda axes: {"fp32": 4.0 * axes["T"] * axes["H"] * axes["D"]},
        lambda axes: 8 * axes["T"] * axes["H"] * axes["D"] + 4 * axes["D"],
    ),
    "linear": OpCost(
        lambda axes: {"fp32": 2.0 * axes["M"] * axes["N"] * axes["K"]},
        lambda axes: 4 * axes["M"] * (axes["K"] + axes["N"]),
    ),
    "rotary": OpCost(
        lambda axes: {"fp32": 3.0 * axes["T"] * axes["H"] * axes["D"]},
        lambda axes: 8 * axes["T"] * axes["H"] * axes["D"] + 4 * axes["T"] * axes["D"],
    ),
    "store_rows": OpCost(
        _copy,
        lambda axes: axes["T"] * axes["KV"] * (4 * axes["D"] + head_bytes(axes["D"], axes.get("E", 4))),
    ),
    "paged_attention": OpCost(_attention_flop, _attention_bytes),
    "silu_and_mul": _element_by_element(5.0, 3, "T", "C"),
    "gelu_and_mul": _element_by_element(10.0, 3, "T", "C"),
    "add": _element_by_element(1.0, 3, "T", "C"),
    "select_rows": OpCost(_copy, lambda axes: 8 * axes["R"] * axes["C"]),
    "soft_cap": _element_by_element(6.0, 2, "T", "V"),
}
"""One entry for each op of `kernels.OPS`."""
