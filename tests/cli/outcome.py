"""What a command left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Its exit code and all that it wrote."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]
