"""Operands of Maxwell's and Pascal's instructions: from nvdisasm's text to values that can be read."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

ZERO_REGISTER = 255
TRUE_PREDICATE = 7

_REGISTER = re.compile(r"R(\d+|Z)(\.CC)?")
_PREDICATE = re.compile(r"(!?)P(\d|T)")
_CONSTANT = re.compile(r"c\[(0x[0-9a-f]+)\]\[(?:R(\d+|Z)\+?)?(-?0x[0-9a-f]+)?\]")
_ADDRESS = re.compile(r"\[(?:R(\d+|Z))?(?:\.X(\d+))?\+?(-?0x[0-9a-f]+)?\]")
_HEXADECIMAL = re.compile(r"[+-]?0x[0-9a-f]+")
_DECIMAL = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|INF|QNAN)", re.IGNORECASE)
_PART = re.compile(r"\.(H[01](?:_H[01])?|B[0-3])$")
_SIGNS = re.compile(r"([-~]?)(\|?)(.*?)(\|?)$")


@dataclass(frozen=True)
class Modifiers:
    """What is done with a value when it is read: |x| first, then −x or ~x.

    `part` is the half ("H1") or byte ("B2") of the register that is meant, None: all of it.
    """

    negate: bool = False
    absolute: bool = False
    invert: bool = False
    part: str | None = None


@dataclass(frozen=True)
class Register:
    """R0 … R254, or RZ, which reads as zero. `sets_flags`: as a result, it sets the condition code."""

    index: int
    modifiers: Modifiers
    sets_flags: bool = False


@dataclass(frozen=True)
class Predicate:
    """P0 … P6, or PT, which is true."""

    index: int
    negate: bool


@dataclass(frozen=True)
class Constant:
    """A word of a constant bank; `register` adds to the offset, which LDC can do."""

    bank: int
    offset: int
    modifiers: Modifiers
    register: int | None = None


@dataclass(frozen=True)
class Immediate:
    """A number in the instruction, as integer instructions read its 32 bits and as floating-point ones do.

    The two differ for decimals alone: "2" is 2 in the one and 2.0 in the other.
    """

    integer_bits: int
    float_bits: int


@dataclass(frozen=True)
class Address:
    """[register · scale + offset]."""

    register: int
    offset: int
    scale: int


@dataclass(frozen=True)
class Word:
    """All else: a label, a special register ("SR_TID.X")."""

    text: str


Operand = Register | Predicate | Constant | Immediate | Address | Word


def parse_operand(text: str) -> Operand:
    """What nvdisasm's text of an operand means."""
    if found := _PREDICATE.fullmatch(text):
        return Predicate(TRUE_PREDICATE if found[2] == "T" else int(found[2]), bool(found[1]))
    if found := _ADDRESS.fullmatch(text):
        return Address(_register(found[1]), int(found[3] or "0", 16), int(found[2] or 1))
    if _HEXADECIMAL.fullmatch(text):
        bits = int(text, 16) & 0xFFFFFFFF
        return Immediate(bits, bits)
    if _NUMBER.fullmatch(text):
        value = float(text.upper().replace("QNAN", "NAN"))
        bits = int(np.float32(value).view(np.uint32))
        return Immediate(int(value) & 0xFFFFFFFF if _DECIMAL.fullmatch(text) else bits, bits)
    return _modified(text) or Word(text)


def _modified(text: str) -> Register | Constant | None:
    signs = _SIGNS.fullmatch(text.replace(".reuse", ""))
    if signs is None:
        return None
    body = signs[3]
    part = _PART.search(body)
    if part:
        body = body[: part.start()]
    modifiers = Modifiers(signs[1] == "-", bool(signs[2]), signs[1] == "~", part[1] if part else None)
    if found := _REGISTER.fullmatch(body):
        return Register(_register(found[1]), modifiers, bool(found[2]))
    if found := _CONSTANT.fullmatch(body):
        register = _register(found[2]) if found[2] else None
        return Constant(int(found[1], 16), int(found[3] or "0", 16), modifiers, register)
    return None


def _register(number: str | None) -> int:
    return ZERO_REGISTER if number in (None, "Z") else int(str(number))
