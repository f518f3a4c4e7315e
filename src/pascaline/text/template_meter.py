"""The allowance that an untrusted template spends from, in characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from jinja2.utils import Namespace

STEP_COST = 64
"""A round of a loop, a call, an operator, or one value looked into."""
COPIED_ELEMENT_COST = 4
"""One element of a list that is copied without looking into it."""

_Value = TypeVar("_Value")


class AllowanceSpent(Exception):  # noqa: N818 - it is control flow, never shown
    """The template did more work than any prompt needs."""


class _Meter:
    def __init__(self, allowance: int) -> None:
        self.left = allowance


_meter: ContextVar[_Meter] = ContextVar("template_meter")


@contextmanager
def metered(allowance: int) -> Iterator[None]:
    """Everything that templates do inside spends from one allowance (in characters)."""
    token = _meter.set(_Meter(allowance))
    try:
        yield
    finally:
        _meter.reset(token)


def spend(cost: int) -> None:
    """Take `cost` from the allowance; raises AllowanceSpent where there is not enough left."""
    meter = _meter.get()
    meter.left -= cost
    if meter.left < 0:
        raise AllowanceSpent


def spend_on(*values: object) -> None:
    """Spend for every character and element that `values` would spell."""
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            spend(len(value))
        elif isinstance(value, Mapping):
            spend(2 * STEP_COST * len(value))
            stack.extend(value.keys())
            stack.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            spend(STEP_COST * len(value))
            stack.extend(value)
        elif isinstance(value, Namespace):
            spend(STEP_COST)
            stack.append(object.__getattribute__(value, "_Namespace__attrs"))
        else:
            spend(1)


def own_size(value: object) -> int:
    """Cost of a copy of the value itself, its elements shared."""
    if isinstance(value, str):
        return len(value)
    return COPIED_ELEMENT_COST * len(value) if isinstance(value, list | tuple) else 0


def counted(values: Iterable[_Value]) -> Iterator[_Value]:
    """The same values, each paid for as one round of a loop."""
    for value in values:
        spend(STEP_COST)
        yield value


def joined(pieces: Iterable[str]) -> str:
    """All pieces as one text, paid for piece by piece."""
    kept = []
    for piece in pieces:
        spend(len(piece) + 1)
        kept.append(piece)
    return "".join(kept)
