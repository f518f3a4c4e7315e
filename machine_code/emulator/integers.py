"""Sums and products of integers.

Source of the semantics: what compilers make of the PTX ISA's instructions, and maxas' notes for XMAD, LEA and
ISCADD; the tests hold each against Python's integers through compiled code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.operands import Immediate
from emulator.operation import operation
from emulator.step import Step, wrapped

Array = np.ndarray[Any, np.dtype[Any]]

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def _addend(step: Step, index: int) -> tuple[Array, int]:
    """An operand that is added: its bits, those of −x as ~x and one more to add."""
    signs = step.signs(index)
    bits = step.bits(index)
    if signs.part is not None or signs.absolute:
        raise step.unknown("a part of an addend")
    if signs.invert or signs.negate:
        bits = ~bits
    return bits.astype(np.uint64), int(signs.negate)


def _iadd(step: Step) -> None:
    a, negative_a = _addend(step, 1)
    b, negative_b = _addend(step, 2)
    if step.has("X"):
        step.write_sum(0, a + b + step.carry())
    else:
        one = 1 if step.has("PO") else negative_a + negative_b
        step.write_sum(0, a + b + np.uint64(one))


def _addend_of_three(step: Step, index: int) -> tuple[Array, int]:
    """As `_addend`. A constant has 20 bits, of which the first is its sign: nvdisasm writes −2 as 0xffffe."""
    if step.signs(index).part is not None:
        return step.integer(index).astype(np.uint64), 0
    bits, negative = _addend(step, index)
    if isinstance(step.operand(index), Immediate):
        bits = np.where(bits >> np.uint64(19) == 1, bits | np.uint64(0xFFF00000), bits)
    return bits, negative


def _iadd3(step: Step) -> None:
    if step.has("RS") or step.has("LS"):
        a, b, c = (step.integer(i).astype(np.uint64) for i in (1, 2, 3))
        total = a + b
        total = (total >> np.uint64(16)) & np.uint64(0x1FFFF) if step.has("RS") else total << np.uint64(16)
        step.write_sum(0, total + c + step.carry() if step.has("X") else total + c)
        return
    (a, negative_a), (b, negative_b), (c, negative_c) = (_addend_of_three(step, i) for i in (1, 2, 3))
    one = step.carry() if step.has("X") else np.uint64(negative_a + negative_b + negative_c)
    step.write_sum(0, a + b + c + one)


def _xmad(step: Step) -> None:
    """16 × 16 bits and an addend, from which products of 32 bits are built."""
    kinds = [each for each in step.modifiers if each in ("S16", "U16")] or ["U16", "U16"]
    if len(kinds) != 2:
        raise step.unknown("one type for two factors")
    factors = []
    for index, kind in zip((1, 2), kinds, strict=True):
        half = _half(step, index)
        factors.append((half ^ 0x8000) - 0x8000 if kind == "S16" else half)
    product = factors[0] * factors[1]
    if step.has("PSL"):
        product = product << 16
    shifted_b = step.bits(2).astype(np.int64) << 16 & 0xFFFFFFFF
    addend = step.integer(3).astype(np.int64)
    if step.has("CLO"):
        addend = addend & 0xFFFF
    elif step.has("CHI"):
        addend = addend >> 16
    elif step.has("CBCC"):
        addend = addend + shifted_b
    elif step.has("CSFU"):
        addend = addend - _sign_fix(step)
    total = product + addend
    if step.has("X"):
        total = total + step.carry().astype(np.int64)
    if step.has("MRG"):
        total = total & 0xFFFF | shifted_b
    step.write_sum(0, total.astype(np.uint64))


def _sign_fix(step: Step) -> Array:
    """What is missing from the upper word of a signed product when its middle terms are summed without signs.

    Derived from the code that ptxas makes of a signed product of a = a1·2^16 + a0 and b, where a1 and b1 are
    signed: a1·b1 + (a1·b0 + (a0·b0 >> 16) + a0·b1 >> 16). IADD3.RS takes a negative term for 2^32 more.
    """
    if step.signs(1).part != "H1" or step.signs(2).part != "H1":
        raise step.unknown("CSFU of lower halves")
    a, b = step.bits(1).view(np.int32), step.bits(2).view(np.int32)
    first = (a < 0) & (b & 0xFFFF != 0)
    second = (b < 0) & (a & 0xFFFF != 0)
    found: Array = (first.astype(np.int64) + second) << 16
    return found


def _half(step: Step, index: int) -> Array:
    bits = step.bits(index).astype(np.int64)
    return (bits >> 16 if step.signs(index).part == "H1" else bits) & 0xFFFF


def _iscadd(step: Step) -> None:
    """(a << shift) + b."""
    shift = np.uint64(step.immediate(3) & 31)
    a = (step.integer(1).astype(np.uint64) << shift) & _LOW
    b, negative = _addend(step, 2)
    step.write_sum(0, a + b + np.uint64(negative))


def _lea(step: Step) -> None:
    """(a << shift) + b, or with HI the upper word of (c:a) << shift, and b."""
    shift = np.uint64(step.immediate(len(step.operands) - 1) & 31)
    a = step.integer(1).astype(np.uint64)
    b, negative = _addend(step, 2)
    if step.has("HI"):
        c = step.integer(3).astype(np.uint64)
        scaled = (((c << _32 | a) << shift) >> _32) & _LOW
    else:
        scaled = (a << shift) & _LOW
    total = scaled + b
    step.write_sum(0, total + step.carry() if step.has("X") else total + np.uint64(negative))


def _idp(step: Step) -> None:
    """Four products of bytes, or two of 16 by 8 bits, and an addend."""
    kinds = [each for each in step.modifiers if each in ("S8", "U8", "S16", "U16")]
    if len(kinds) != 2 or not step.has("4A"):
        raise step.unknown("only products of four bytes are known")
    a, b = (_signed_bytes(step.bits(1 + i), kinds[i] == "S8") for i in (0, 1))
    total = step.integer(3).astype(np.int64)
    for x, y in zip(a, b, strict=True):
        total = total + x * y
    step.write(0, wrapped(total))


def _signed_bytes(words: Array, is_signed: bool) -> list[Array]:
    found = []
    for byte in range(4):
        value = (words >> np.uint32(8 * byte) & np.uint32(0xFF)).astype(np.int64)
        found.append((value ^ 0x80) - 0x80 if is_signed else value)
    return found


INTEGERS = {
    "IADD": operation(_iadd, "X PO"),
    "IADD32I": operation(_iadd, "X PO"),
    "IADD3": operation(_iadd3, "X RS LS"),
    "XMAD": operation(_xmad, "S16 U16 PSL CLO CHI CBCC CSFU MRG X"),
    "ISCADD": operation(_iscadd),
    "ISCADD32I": operation(_iscadd),
    "LEA": operation(_lea, "HI X"),
    "IDP": operation(_idp, "4A S8 U8"),
}
