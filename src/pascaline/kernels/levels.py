"""How exact an arithmetic is."""

from __future__ import annotations

from typing import Literal

Level = Literal["exact", "rounded", "fast"]
"""What an arithmetic errs by: about what fp32 or fp16 storage does; what inputs in the weight's own type do,
where that is coarser (bf16); or what 8-bit inputs do."""

LEVELS: tuple[Level, ...] = ("exact", "rounded", "fast")
"""The most exact first: who takes one takes those before it."""


def is_within(level: Level, least: Level) -> bool:
    """Whether it is as exact as `least`, or more."""
    return LEVELS.index(level) <= LEVELS.index(least)
