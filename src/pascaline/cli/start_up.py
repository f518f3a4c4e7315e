"""What start-up took, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pascaline.core.units import format_seconds

if TYPE_CHECKING:
    from pascaline.engine.messages import Ready

WORTH_TELLING_S = 2.0
"""Expected: what is shorter is over before anybody reads of it."""


def describe_stages(ready: Ready) -> str:
    """Each stage's real time, and what it was expected to take: "loading weights 3 s (expected: 2 s), …"."""
    return ", ".join(
        f"{name} {format_seconds(seconds)}"
        + (f" (expected: {format_seconds(expected_s)})" if expected_s is not None else "")
        for name, expected_s, seconds in ready.stages
    )


def is_worth_telling(ready: Ready) -> bool:
    return sum(expected_s or 0.0 for _, expected_s, _ in ready.stages) >= WORTH_TELLING_S
