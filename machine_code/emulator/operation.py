"""What a table of operations holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emulator.step import Step


@dataclass(frozen=True)
class Operation:
    """How one instruction is executed.

    Parameters
    ----------
    execute : reads and writes through the step. It may change the program counters of the step's warps, which
        point at the next instruction already.
    modifiers : those it understands; any other stops the emulator.
    """

    execute: Callable[[Step], None]
    modifiers: frozenset[str] = frozenset()


def operation(execute: Callable[[Step], None], modifiers: str = "") -> Operation:
    """One with `modifiers` separated by blanks."""
    return Operation(execute, frozenset(modifiers.split()))
