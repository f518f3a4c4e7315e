"""Conversions between numbers of different types."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from emulator.comparisons import flushed
from emulator.floating import write_float
from emulator.operands import ZERO_REGISTER
from emulator.operation import operation
from emulator.rounding import rounded
from emulator.step import Step, wrapped

Array = np.ndarray[Any, np.dtype[Any]]

_TYPE = re.compile(r"[USF](8|16|32|64)")
_TO_INTEGER = {"TRUNC": np.trunc, "FLOOR": np.floor, "CEIL": np.ceil, "ROUND": np.rint}
_MODES = ("RZ", "RM", "RP")


def _types(step: Step, default: tuple[str, str]) -> tuple[str, str]:
    """The result's type and the source's."""
    found = [each for each in step.modifiers if _TYPE.fullmatch(each)]
    if len(found) == 1:
        return (found[0], default[1]) if found[0][0] == default[0][0] else (default[0], found[0])
    return (found[0], found[1]) if found else default


def _width(kind: str) -> int:
    return int(kind[1:])


def _integer(step: Step, index: int, kind: str) -> Array:
    """A source as int64 (uint64 for U64)."""
    width = _width(kind)
    if width == 64:
        pair = step.pair(index)
        return pair if kind[0] == "U" else pair.view(np.int64)
    value = step.integer(index).astype(np.int64) & (1 << width) - 1
    sign = 1 << width - 1
    return value if kind[0] == "U" else (value ^ sign) - sign


def _half_value(step: Step, index: int) -> Array:
    """An fp16 source as fp32, its signs applied."""
    signs = step.signs(index)
    bits = step.bits(index)
    bits = (bits >> np.uint32(16) if signs.part in ("H1", "H1_H1") else bits) & np.uint32(0xFFFF)
    if signs.absolute:
        bits = bits & np.uint32(0x7FFF)
    if signs.negate:
        bits = bits ^ np.uint32(0x8000)
    found: Array = bits.astype(np.uint16).view(np.float16).astype(np.float32)
    return found


def _float(step: Step, index: int, kind: str) -> Array:
    if kind == "F16":
        return _half_value(step, index)
    if kind != "F32":
        raise step.unknown(f"{kind} is not known")
    value = step.floating(index)
    return flushed(value) if step.has("FTZ") else value


def _integer_to_float(step: Step) -> None:
    target, source = _types(step, ("F32", "S32"))
    value = _integer(step, 1, source)
    mode = next((each for each in step.modifiers if each in _MODES), "RN")
    if target == "F16" and mode == "RN":
        step.write(0, value.astype(np.float32).astype(np.float16).view(np.uint16).astype(np.uint32))
    elif target == "F32" and mode == "RN":
        write_float(step, 0, value.astype(np.float32))
    elif target == "F32" and _width(source) <= 32:
        write_float(step, 0, rounded(value.astype(np.float64), mode))
    else:
        raise step.unknown("these types are not known")


def _float_to_integer(step: Step) -> None:
    """Numbers too great become the greatest, NaN becomes 0."""
    target, source = _types(step, ("S32", "F32"))
    value = _float(step, 1, source).astype(np.float64)
    how = next((each for each in step.modifiers if each in _TO_INTEGER), "ROUND")
    value = _TO_INTEGER[how](value)
    width, is_signed = _width(target), target[0] == "S"
    least, most = (-(1 << width - 1), (1 << width - 1) - 1) if is_signed else (0, (1 << width) - 1)
    inside = np.where(np.isnan(value) | (value <= float(least)) | (value >= float(most)), 0.0, value)
    result = inside.astype(np.int64 if is_signed else np.uint64)
    kind = result.dtype.type
    result = np.where(value <= float(least), kind(least), np.where(value >= float(most), kind(most), result))
    if width == 64:
        words = result.view(np.uint64)
        register = step.register(0)
        step.write_register(register, (words & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        step.write_register(register + 1, (words >> np.uint64(32)).astype(np.uint32))
    else:
        step.write(0, wrapped(result.astype(np.int64)))


def _float_to_float(step: Step) -> None:
    target, source = _types(step, ("F32", "F32"))
    value = _float(step, 1, source)
    how = next((each for each in step.modifiers if each in _TO_INTEGER), None)
    if how is not None:
        value = _TO_INTEGER[how](value)
    if target == "F32":
        write_float(step, 0, value)
        return
    mode = next((each for each in step.modifiers if each in _MODES), "RN")
    if target != "F16" or mode not in ("RN", "RZ"):
        raise step.unknown("these types are not known")
    half = value.astype(np.float16)
    if mode == "RZ":
        half = np.where(
            np.abs(half.astype(np.float32)) > np.abs(value), np.nextafter(half, np.float16(0)), half
        )
    bits = np.where(np.isnan(value), np.uint16(0x7FFF), half.view(np.uint16))
    step.write(0, bits.astype(np.uint32))


def _integer_to_integer(step: Step) -> None:
    """Another width, cut or saturated."""
    target, source = _types(step, ("S32", "S32"))
    value = _integer(step, 1, source)
    width, is_signed = _width(target), target[0] == "S"
    if width == 64 or _width(source) == 64:
        raise step.unknown("64 bits")
    if step.has("SAT"):
        least, most = (-(1 << width - 1), (1 << width - 1) - 1) if is_signed else (0, (1 << width) - 1)
        value = np.clip(value, least, most)
    value = value & (1 << width) - 1
    sign = 1 << width - 1
    step.write(0, wrapped((value ^ sign) - sign if is_signed else value))


def _half_to_float(step: Step) -> None:
    """HADD2.F32 of a half and −0 is how 6.0 widens halves; other sums of halves are not known."""
    if not step.has("F32") or step.register(2) != ZERO_REGISTER or not step.signs(2).negate:
        raise step.unknown("arithmetic in halves")
    write_float(step, 0, _half_value(step, 1))


_TYPES = "S8 U8 S16 U16 S32 U32 S64 U64 F16 F32"
_ROUNDINGS = "TRUNC FLOOR CEIL ROUND"

CONVERSIONS = {
    "I2F": operation(_integer_to_float, f"{_TYPES} RZ RM RP"),
    "F2I": operation(_float_to_integer, f"{_TYPES} {_ROUNDINGS} FTZ"),
    "F2F": operation(_float_to_float, f"{_TYPES} {_ROUNDINGS} FTZ SAT RZ"),
    "I2I": operation(_integer_to_integer, f"{_TYPES} SAT"),
    "HADD2": operation(_half_to_float, "F32"),
}
