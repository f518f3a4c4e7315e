"""Arithmetic in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from emulator.comparisons import flushed
from emulator.operation import operation
from emulator.rounding import fused, odd_sum, rounded
from emulator.step import Step

Array = np.ndarray[Any, np.dtype[Any]]

_NAN = np.uint32(0x7FFFFFFF)
_MODES = ("RZ", "RM", "RP")
_SCALES = {f"{letter}{n}": np.float32(n if letter == "M" else 1 / n) for letter in "DM" for n in (2, 4, 8)}

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "RCP": lambda x: 1.0 / x,
    "RSQ": lambda x: 1.0 / np.sqrt(x),
    "SQRT": np.sqrt,
    "EX2": np.exp2,
    "LG2": np.log2,
    "SIN": np.sin,
    "COS": np.cos,
}


def _read(step: Step, index: int) -> Array:
    value = step.floating(index)
    return flushed(value) if step.has("FTZ") else value


def write_float(step: Step, index: int, value: Array) -> None:
    """An fp32 result: NaN has one form, FTZ and SAT are applied."""
    if step.has("FTZ"):
        value = flushed(value)
    if step.has("SAT"):
        value = np.where(value > 0, np.minimum(value, np.float32(1)), np.float32(0))
    is_nan = np.isnan(value)
    bits = value.view(np.uint32)
    step.write(index, np.where(is_nan, _NAN, bits) if is_nan.any() else bits)


def _mode(step: Step) -> str:
    return next((each for each in step.modifiers if each in _MODES), "RN")


def _add(step: Step) -> None:
    a, b, mode = _read(step, 1), _read(step, 2), _mode(step)
    if mode == "RN":
        write_float(step, 0, a + b)
    else:
        write_float(step, 0, rounded(odd_sum(a.astype(np.float64), b.astype(np.float64)), mode))


def _multiply(step: Step) -> None:
    a, b, mode = _read(step, 1), _read(step, 2), _mode(step)
    scale = next((_SCALES[each] for each in step.modifiers if each in _SCALES), None)
    if scale is not None:
        a = a * scale  # a power of two: exact unless it leaves fp32's range
    write_float(step, 0, a * b if mode == "RN" else rounded(a.astype(np.float64) * b, mode))


def _fused(step: Step) -> None:
    a, b, c, mode = _read(step, 1), _read(step, 2), _read(step, 3), _mode(step)
    if mode == "RN":
        write_float(step, 0, fused(a, b, c))
    else:
        write_float(step, 0, rounded(odd_sum(a.astype(np.float64) * b, c.astype(np.float64)), mode))


def _special(step: Step) -> None:
    """The special functions take subnormal numbers for zeros; they are exact here, on a card nearly so."""
    function = _FUNCTIONS.get(step.modifiers[0])
    if function is None:
        raise step.unknown("a function that is not known")
    value = flushed(step.floating(1)).astype(np.float64)
    write_float(step, 0, flushed(function(value).astype(np.float32)))


def _reduce_range(step: Step) -> None:
    """What MUFU wants its argument to go through; here that takes every argument."""
    step.write(0, step.floating(1).view(np.uint32))


def _check_division(step: Step) -> None:
    """Whether a / b needs the careful way: exponents near the ends.

    It is only a hint to the compiler's own code, which is right either way where this says so too often.
    """
    a, b = (step.floating(i).view(np.uint32) >> np.uint32(23) & np.uint32(0xFF) for i in (1, 2))
    a, b = a.astype(np.int64), b.astype(np.int64)
    ends = (b <= 1) | (b >= 253) | (a <= 24) | (a == 255) | (a - b >= 126) | (a - b <= -125)
    step.write_predicate(0, ends)


FLOATING = {
    "FADD": operation(_add, "FTZ SAT RZ RM RP"),
    "FADD32I": operation(_add, "FTZ"),
    "FMUL": operation(_multiply, f"FTZ SAT RZ RM RP {' '.join(_SCALES)}"),
    "FMUL32I": operation(_multiply, "FTZ SAT"),
    "FFMA": operation(_fused, "FTZ SAT RZ RM RP"),
    "FFMA32I": operation(_fused, "FTZ SAT"),
    "MUFU": operation(_special, f"{' '.join(_FUNCTIONS)}"),
    "RRO": operation(_reduce_range, "SINCOS EX2"),
    "FCHK": operation(_check_division, "DIVIDE"),
}
