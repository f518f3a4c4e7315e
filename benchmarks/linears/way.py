"""A way to compute a linear, as it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

Side = Literal["ours", "peer", "library"]


@dataclass(frozen=True)
class Way:
    """All launches of one product, x fp16 (or fp32) in and y out.

    Parameters
    ----------
    accuracy : "exact" (two planes, or fp32), "fast" (one plane) or "half" (fp16 inputs and products).
    copies : of the weight, in memory of their own.
    weight_bytes : of one copy.
    launch : puts the product with copy i into the current stream.
    output : what it writes, (M, N).
    is_intact : whether nothing was written beside the output.
    details : what a reader of the JSON wants to know beside.
    """

    name: str
    side: Side
    accuracy: str
    copies: int
    weight_bytes: int
    launch: Callable[[int], None]
    output: torch.Tensor
    is_intact: Callable[[], bool] = lambda: True
    details: dict[str, Any] = field(default_factory=dict)


def copies_of(weight_bytes: int, least_streamed_bytes: int) -> int:
    """How many copies of a weight make up so many bytes."""
    return max(1, -(-least_streamed_bytes // weight_bytes))


def relative_error(output: torch.Tensor, reference: torch.Tensor) -> float:
    """‖y − r‖ / ‖r‖ in fp64; not a number where y has one that is none."""
    total = torch.zeros((), dtype=torch.float64, device=output.device)
    for first in range(0, len(output), 256):  # a bound on the memory of the differences
        part = slice(first, first + 256)
        total += (output[part].double() - reference[part]).square().sum()
    return float((total / reference.square().sum()).sqrt())
