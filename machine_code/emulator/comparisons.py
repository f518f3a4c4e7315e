"""Comparisons, and what is chosen by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emulator.operation import operation
from emulator.step import Step

Array = np.ndarray[Any, np.dtype[Any]]
Comparison = Callable[[Array, Array], Array]

_ORDERED: dict[str, Comparison] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": lambda a, b: (a < b) | (a > b),
    "NUM": lambda a, b: (a == a) & (b == b),
}
_OPPOSITE = {"LTU": "GE", "LEU": "GT", "GTU": "LE", "GEU": "LT", "EQU": "NE", "NEU": "EQ", "NAN": "NUM"}
"""Those that are true of NaN, and what each denies."""

_COMPARISONS = "LT LE GT GE EQ NE T F"
_FLOAT_COMPARISONS = f"{_COMPARISONS} NUM NAN LTU LEU GTU GEU EQU NEU"
_COMBINATIONS = "AND OR XOR"


def _compare(step: Step, a: Array, b: Array) -> Array:
    name = step.modifiers[0] if step.modifiers else ""
    if name not in _ORDERED and name not in _OPPOSITE and name not in ("T", "F"):
        if step.decoded.name not in ("FCMP", "ICMP"):
            raise step.unknown("no comparison")
        name = "GT"  # nvdisasm prints none for it here
    if name in ("T", "F"):
        return np.full((1, 1), name == "T")
    if name in _OPPOSITE:
        return ~_ORDERED[_OPPOSITE[name]](a, b)
    return _ORDERED[name](a, b)


def _combine(name: str, a: Array, b: Array) -> Array:
    return a & b if name == "AND" else a | b if name == "OR" else a ^ b


def _integers(step: Step, first: int) -> tuple[Array, Array]:
    read = step.integer if step.has("U32") else step.signed
    return read(first), read(first + 1)


def _floats(step: Step, first: int) -> tuple[Array, Array]:
    a, b = step.floating(first), step.floating(first + 1)
    return (flushed(a), flushed(b)) if step.has("FTZ") else (a, b)


def flushed(value: Array) -> Array:
    """Subnormal fp32 numbers as zeros of their sign."""
    bits = value.view(np.uint32)
    return np.where(bits & np.uint32(0x7F800000) == 0, bits & np.uint32(0x80000000), bits).view(np.float32)


def _integer_predicates(step: Step) -> None:
    _write_predicates(step, _compare_integers(step, 2))


def _compare_integers(step: Step, first: int) -> Array:
    a, b = _integers(step, first)
    return _compare_upper(step, a, b) if step.has("X") else _compare(step, a, b)


def _compare_upper(step: Step, a: Array, b: Array) -> Array:
    """The upper words of numbers of which the lower ones were subtracted, with their flags."""
    borrow = 1 - step.carry().astype(np.int64)
    difference = a.astype(np.int64) - b - borrow
    is_zero = (difference == 0) & step.machine.warps.is_zero[step.selected]
    values: dict[str, Array] = {
        "LT": difference < 0,
        "GE": difference >= 0,
        "EQ": is_zero,
        "NE": ~is_zero,
        "LE": (difference < 0) | is_zero,
        "GT": (difference >= 0) & ~is_zero,
    }
    return values[step.modifiers[0]]


def _float_predicates(step: Step) -> None:
    _write_predicates(step, _compare(step, *_floats(step, 2)))


def _write_predicates(step: Step, value: Array) -> None:
    """A comparison and its opposite, both combined with a third predicate."""
    other = step.predicate(4)
    how = next((each for each in step.modifiers[1:] if each in ("AND", "OR", "XOR")), "AND")
    first, second = _combine(how, value, other), _combine(how, ~value, other)
    step.write_predicate(0, first)
    step.write_predicate(1, second)


def _integer_set(step: Step) -> None:
    _write_set(step, _compare_integers(step, 1))


def _float_set(step: Step) -> None:
    _write_set(step, _compare(step, *_floats(step, 1)))


def _write_set(step: Step, value: Array) -> None:
    how = next((each for each in step.modifiers[1:] if each in ("AND", "OR", "XOR")), "AND")
    value = _combine(how, value, step.predicate(3))
    true = np.float32(1).view(np.uint32) if step.has("BF") else np.uint32(0xFFFFFFFF)
    step.write(0, np.where(value, true, np.uint32(0)).astype(np.uint32))


def _predicates(step: Step) -> None:
    """Three predicates combined, and the same with the first comparison denied."""
    a, b, c = (step.predicate(i) for i in (2, 3, 4))
    value = _combine(step.modifiers[0], a, b)
    first, second = _combine(step.modifiers[1], value, c), _combine(step.modifiers[1], ~value, c)
    step.write_predicate(0, first)
    step.write_predicate(1, second)


def _predicates_to_mask(step: Step) -> None:
    """Three predicates combined, as all ones or zero."""
    a, b, c = (step.predicate(i) for i in (1, 2, 3))
    value = _combine(step.modifiers[1], _combine(step.modifiers[0], a, b), c)
    true = np.float32(1).view(np.uint32) if step.has("BF") else np.uint32(0xFFFFFFFF)
    step.write(0, np.where(value, true, np.uint32(0)).astype(np.uint32))


def _integer_choose(step: Step) -> None:
    number = step.integer(3) if step.has("U32") else step.signed(3)
    step.write(0, np.where(_compare(step, number, np.zeros_like(number)), step.integer(1), step.integer(2)))


def _float_choose(step: Step) -> None:
    number = step.floating(3)
    number = flushed(number) if step.has("FTZ") else number
    step.write(0, np.where(_compare(step, number, np.zeros_like(number)), step.bits(1), step.bits(2)))


def _choose(step: Step) -> None:
    step.write(0, np.where(step.predicate(3), step.integer(1), step.integer(2)))


_EQUAL, _FIRST, _SECOND = range(3)


def _integer_extreme(step: Step) -> None:
    """The smaller or the greater; of 64 bits by the upper words (XHI), which say whose lower word it is."""
    a, b = _integers(step, 1)
    is_smaller = step.predicate(3)
    value = np.where(is_smaller, np.minimum(a, b), np.maximum(a, b))
    if step.has("XLO"):
        chosen = step.machine.warps.extreme[step.selected]
        value = np.where(chosen == _EQUAL, value, np.where(chosen == _FIRST, a, b))
    if step.has("XHI"):
        is_first = np.where(is_smaller, a < b, a > b)
        chosen = np.where(a == b, _EQUAL, np.where(is_first, _FIRST, _SECOND))
        step.write_flag(step.machine.warps.extreme, chosen.astype(np.uint8))
    step.write(0, value)


def _float_extreme(step: Step) -> None:
    """The smaller or the greater, −0 below +0; of a NaN and a number the number."""
    a, b = _floats(step, 1)
    smaller, greater = np.fmin(a, b), np.fmax(a, b)
    zeros = (a == 0) & (b == 0)
    x, y = a.view(np.uint32), b.view(np.uint32)
    low = np.where(zeros, x | y, smaller.view(np.uint32))
    high = np.where(zeros, x & y, greater.view(np.uint32))
    value = np.where(step.predicate(3), low, high)
    step.write(0, np.where(np.isnan(smaller), np.uint32(0x7FFFFFFF), value))


def _extreme_of_three(step: Step) -> None:
    """The smaller of two (MX: the greater), then of that and a third the smaller (MIN) or the greater (MAX).

    Signed but for UD and two U32. Source: what ptxas makes of each pair of min and max.
    """
    if step.modifiers.count("U32") != 2 * step.modifiers.count("UD"):
        raise step.unknown("operands of different types")
    read = step.integer if step.has("UD") else step.signed
    a, b, c = read(1), read(2), read(3)
    value = np.maximum(a, b) if step.has("MX") else np.minimum(a, b)
    step.write(0, np.maximum(value, c) if step.has("MAX") else np.minimum(value, c))


COMPARISONS = {
    "VMNMX": operation(_extreme_of_three, "UD U32 MX MAX MIN"),
    "ISETP": operation(_integer_predicates, f"{_COMPARISONS} {_COMBINATIONS} U32 X"),
    "FSETP": operation(_float_predicates, f"{_FLOAT_COMPARISONS} {_COMBINATIONS} FTZ"),
    "ISET": operation(_integer_set, f"{_COMPARISONS} {_COMBINATIONS} U32 X BF"),
    "FSET": operation(_float_set, f"{_FLOAT_COMPARISONS} {_COMBINATIONS} FTZ BF"),
    "PSETP": operation(_predicates, _COMBINATIONS),
    "PSET": operation(_predicates_to_mask, f"{_COMBINATIONS} BF"),
    "ICMP": operation(_integer_choose, f"{_COMPARISONS} U32"),
    "FCMP": operation(_float_choose, f"{_FLOAT_COMPARISONS} FTZ"),
    "SEL": operation(_choose),
    "IMNMX": operation(_integer_extreme, "U32 XLO XHI"),
    "FMNMX": operation(_float_extreme, "FTZ"),
}
