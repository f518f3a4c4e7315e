"""Logic, shifts, bit fields, bytes and moves."""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.operands import Predicate
from emulator.operation import operation
from emulator.step import Step, wrapped

Array = np.ndarray[Any, np.dtype[Any]]

_32 = np.uint64(32)


def _results(step: Step) -> tuple[int, int | None]:
    """The operand that is the result, and the one that is a predicate made of it, if there is one."""
    return (1, 0) if isinstance(step.operand(0), Predicate) else (0, None)


def _logic(step: Step) -> None:
    first, predicate = _results(step)
    a, b = step.integer(first + 1), step.integer(first + 2)
    if step.has("AND"):
        value = a & b
    elif step.has("OR"):
        value = a | b
    elif step.has("XOR"):
        value = a ^ b
    elif step.has("PASS_B"):
        value = b | a & np.uint32(0)
    else:
        raise step.unknown("no function")
    step.write(first, value)
    if predicate is not None:
        step.write_predicate(predicate, value == 0 if step.has("Z") else value != 0)


def _logic3(step: Step) -> None:
    """Any function of three bits, by its table of eight."""
    first, predicate = _results(step)
    a, b, c = (step.integer(first + i) for i in (1, 2, 3))
    value: Array = np.zeros((1, 1), np.uint32)
    table = step.immediate(first + 4)
    for row in range(8):
        if table >> row & 1:
            value = value | (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
    step.write(first, value)
    if predicate is not None:
        step.write_predicate(predicate, value == 0 if step.has("Z") else value != 0)


def _amount(step: Step, index: int, most: int) -> Array:
    """A shift's amount: modulo 32 with W, else at most `most`."""
    amount = step.integer(index)
    found: Array = amount & np.uint32(31) if step.has("W") else np.minimum(amount, np.uint32(most))
    return found.astype(np.uint64)


def _shift_left(step: Step) -> None:
    step.write(0, step.integer(1).astype(np.uint64) << _amount(step, 2, 32))


def _shift_right(step: Step) -> None:
    amount = _amount(step, 2, 32)
    if step.has("U32"):
        step.write(0, step.integer(1).astype(np.uint64) >> amount)
    else:
        step.write(0, wrapped(step.signed(1).astype(np.int64) >> amount.astype(np.int64)))


def _shift_pair(step: Step) -> None:
    """One word of (high:low) shifted: high << n with low's bits coming in, or low >> n with high's."""
    wide = step.has("U64") or step.has("S64")
    amount = _amount(step, 2, 63 if wide else 32)
    low, high = step.integer(1).astype(np.uint64), step.integer(3).astype(np.uint64)
    both = high << _32 | low
    if step.has("L"):
        step.write(0, (both << amount) >> _32)
    elif step.has("HI"):
        step.write(0, _shifted_right(step, both, amount) >> _32)
    else:
        step.write(0, _shifted_right(step, both, amount))


def _shifted_right(step: Step, both: Array, amount: Array) -> Array:
    if step.has("S64"):
        return (both.view(np.int64) >> amount.view(np.int64)).view(np.uint64)
    return both >> amount


def _extract_field(step: Step) -> None:
    value = step.integer(1)
    if step.has("BREV"):
        value = _reversed(value)
    field = step.integer(2)
    start = np.minimum(field & np.uint32(255), 32).astype(np.int64)
    length = np.minimum(field >> np.uint32(8) & np.uint32(255), 32).astype(np.int64)
    if step.has("U32"):
        step.write(0, wrapped(value.astype(np.int64) >> start & (1 << length) - 1))
        return
    wide = value.view(np.int32).astype(np.int64) >> start
    sign = np.int64(1) << np.maximum(length - 1, 0)
    step.write(0, wrapped(np.where(length == 0, 0, ((wide & (1 << length) - 1) ^ sign) - sign)))


def _insert_field(step: Step) -> None:
    value, field, base = (step.integer(i).astype(np.int64) for i in (1, 2, 3))
    start, length = np.minimum(field & 255, 32), np.minimum(field >> 8 & 255, 32)
    mask = ((1 << length) - 1) << start
    step.write(0, wrapped(value << start & mask | base & ~mask))


def _reversed(value: Array) -> Array:
    result = np.zeros_like(value)
    for bit in range(32):
        result |= (value >> np.uint32(bit) & np.uint32(1)) << np.uint32(31 - bit)
    return result


def _permute(step: Step) -> None:
    """Bytes of (c:a) picked by the nibbles of b; a nibble's upper bit asks for copies of the byte's sign."""
    both = step.integer(3).astype(np.uint64) << _32 | step.integer(1).astype(np.uint64)
    selector = step.integer(2).astype(np.uint64)
    value = np.zeros((1, 1), np.uint64)
    for byte in range(4):
        nibble = selector >> np.uint64(4 * byte)
        picked = both >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        copies = np.where(picked & np.uint64(128) != 0, np.uint64(255), np.uint64(0))
        value = value | np.where(nibble & np.uint64(8) != 0, copies, picked) << np.uint64(8 * byte)
    step.write(0, value)


def _count_ones(step: Step) -> None:
    step.write(0, np.bitwise_count(step.integer(1)).astype(np.uint32))


def _find_leading(step: Step) -> None:
    """The highest bit that is set (of a signed number: that differs from its sign), −1 without one."""
    value = step.integer(1)
    if not step.has("U32"):
        value = value ^ (value.view(np.int32) >> 31).view(np.uint32)
    _, exponent = np.frexp(value.astype(np.float64))
    if step.has("SH"):
        step.write(0, np.where(value == 0, -1, 32 - exponent).astype(np.int64))
    else:
        step.write(0, np.where(value == 0, -1, exponent - 1).astype(np.int64))


def _move(step: Step) -> None:
    step.write(0, step.integer(1))


BITS = {
    "LOP": operation(_logic, "AND OR XOR PASS_B Z NZ"),
    "LOP32I": operation(_logic, "AND OR XOR PASS_B"),
    "LOP3": operation(_logic3, "LUT Z NZ"),
    "SHL": operation(_shift_left, "W"),
    "SHR": operation(_shift_right, "U32 S32 W"),
    "SHF": operation(_shift_pair, "L R W U32 S32 U64 S64 HI"),
    "BFE": operation(_extract_field, "U32 S32 BREV"),
    "BFI": operation(_insert_field),
    "PRMT": operation(_permute),
    "POPC": operation(_count_ones),
    "FLO": operation(_find_leading, "U32 S32 SH"),
    "MOV": operation(_move),
    "MOV32I": operation(_move),
}
