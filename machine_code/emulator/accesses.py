"""Loads, stores and atomic operations."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from emulator.memory import AccessError, load_word, store_word
from emulator.operands import ZERO_REGISTER, Constant
from emulator.operation import Operation, operation
from emulator.step import Step

Array = np.ndarray[Any, np.dtype[Any]]

_SIZE = re.compile(r"[US]?(8|16|32|64|128)")
_CACHING = "E CI CG CV CS CA LU WT U"  # U: not aligned to its size in texture loads; nothing to the values


def _nbytes(step: Step) -> int:
    sizes = [each for each in step.modifiers if _SIZE.fullmatch(each)]
    return int(sizes[0].lstrip("US")) // 8 if sizes else 4


class _Access:
    """The threads that take part, one after another, and where each accesses."""

    def __init__(self, step: Step, operand: int, space: str, nbytes: int, *, writes: bool) -> None:
        selected, self.lanes = np.nonzero(step.active)
        self.warps = step.indices[selected]
        address = step.address(operand)
        self._registers = step.machine.warps.registers
        addresses = self.values(address.register).astype(np.int64) * address.scale
        machine = step.machine
        if space == "global":
            if not step.has("E"):
                raise step.unknown("an address of 32 bits")
            if address.register != ZERO_REGISTER:
                addresses = addresses + (self.values(address.register + 1).astype(np.int64) << 32)
            self.data = machine.memory.data
            self.positions = machine.memory.locate(addresses + address.offset, nbytes, writes=writes)
        else:
            addresses = (addresses + address.offset) & 0xFFFFFFFF
            memory = machine.shared if space == "shared" else machine.local
            owners = machine.warps.blocks[self.warps] if space == "shared" else self.warps * 32 + self.lanes
            self.data = memory.data
            self.positions = memory.locate(owners, addresses, nbytes)

    def values(self, register: int) -> Array:
        """A register of those threads."""
        if register == ZERO_REGISTER:
            return np.zeros(len(self.warps), np.uint32)
        found: Array = self._registers[register, self.warps, self.lanes]
        return found

    def write(self, register: int, values: Array) -> None:
        """Into a register of those threads."""
        if register != ZERO_REGISTER:
            self._registers[register, self.warps, self.lanes] = values


def _load(space: str) -> Operation:
    def execute(step: Step) -> None:
        nbytes = _nbytes(step)
        access = _Access(step, 1, space, nbytes, writes=False)
        memory, register = step.machine.memory, step.register(0)
        if space == "global" and step.has("CI") and memory.written[access.positions].any():
            raise AccessError("the read-only cache loads what the kernel has written")
        if nbytes < 4:
            values = load_word(access.data, access.positions, nbytes)
            if step.has("S8") or step.has("S16"):
                sign = np.uint32(1 << 8 * nbytes - 1)
                values = (values ^ sign) - sign
            access.write(register, values)
            return
        for word in range(nbytes // 4):
            values = load_word(access.data, access.positions + 4 * word, 4)
            access.write(register + word if register != ZERO_REGISTER else register, values)

    return operation(execute, f"{_CACHING} U8 S8 U16 S16 32 64 128")


def _store(space: str) -> Operation:
    def execute(step: Step) -> None:
        nbytes = _nbytes(step)
        access = _Access(step, 0, space, nbytes, writes=True)
        register = step.register(1)
        for word in range(max(1, nbytes // 4)):
            values = access.values(register + word if register != ZERO_REGISTER else register)
            store_word(access.data, access.positions + 4 * word, min(nbytes, 4), values)
        if space == "global":
            for byte in range(nbytes):
                step.machine.memory.written[access.positions + byte] = True

    return operation(execute, f"{_CACHING} U8 S8 U16 S16 32 64 128")


def _load_constant(step: Step) -> None:
    operand = step.operand(1)
    if not isinstance(operand, Constant):
        raise step.unknown("operand 1 is no constant")
    words = step.constant_words(operand.bank)
    offsets = np.zeros((1, 1), np.int64) + operand.offset
    if operand.register is not None:
        offsets = offsets + step.read(operand.register).view(np.int32)
    nbytes = _nbytes(step)
    offsets = np.where(step.active, offsets, 0)
    if (offsets < 0).any() or (offsets + nbytes > 4 * words.size).any() or (offsets % nbytes).any():
        raise AccessError(f"constant bank {operand.bank} of {4 * words.size} bytes")
    if nbytes < 4:
        values = load_word(words.view(np.uint8), offsets, nbytes)
        sign = np.uint32(1 << 8 * nbytes - 1 if step.has("S8") or step.has("S16") else 0)
        step.write(0, (values ^ sign) - sign)
        return
    for word in range(nbytes // 4):
        step.write_register(step.register(0) + word, words[offsets // 4 + word])


def _combined(step: Step, old: Array, value: Array, other: Array) -> Array:
    """What an atomic operation leaves, from one-element arrays."""
    if step.has("ADD"):
        if step.has("F32"):
            return (old.view(np.float32) + value.view(np.float32)).view(np.uint32)
        return old + value
    if step.has("MIN") or step.has("MAX"):
        choose = np.minimum if step.has("MIN") else np.maximum
        if step.has("S32"):
            return choose(old.view(np.int32), value.view(np.int32)).view(np.uint32)
        return choose(old, value)
    if step.has("INC"):
        return np.where(old >= value, np.zeros_like(old), old + old.dtype.type(1))
    if step.has("DEC"):
        return np.where((old == 0) | (old > value), value, old - old.dtype.type(1))
    if step.has("AND"):
        return old & value
    if step.has("OR"):
        return old | value
    if step.has("XOR"):
        return old ^ value
    if step.has("EXCH"):
        return value
    if step.has("CAS"):
        return np.where(old == value, other, old)
    raise step.unknown("an atomic operation that is not known")


def _atomic(space: str, *, returns: bool) -> Operation:
    """One thread after another, in the order of warps and lanes."""

    def execute(step: Step) -> None:
        wide = step.has("U64") or step.has("64")
        kind: Any = np.uint64 if wide else np.uint32
        nbytes = 8 if wide else 4
        access = _Access(step, 1 if returns else 0, space, nbytes, writes=True)
        source = step.register(2 if returns else 1)
        values = _wide(access, source) if wide else access.values(source)
        others = values
        if step.has("CAS"):  # the value to compare with, then the one to put there
            other = step.register(3)
            others = _wide(access, other) if wide else access.values(other)
        target = access.data.view(kind)
        old = np.zeros(len(values), kind)
        for thread, position in enumerate(access.positions // nbytes):
            one = target[position : position + 1]
            old[thread] = one[0]
            one[:] = _combined(step, one, values[thread : thread + 1], others[thread : thread + 1])
        if space == "global":
            for byte in range(nbytes):
                step.machine.memory.written[access.positions + byte] = True
        if returns:
            access.write(step.register(0), old.astype(np.uint32))
            if wide and step.register(0) != ZERO_REGISTER:
                access.write(step.register(0) + 1, (old >> np.uint64(32)).astype(np.uint32))

    return operation(execute, "E ADD MIN MAX INC DEC AND OR XOR EXCH CAS U32 S32 U64 64 32 F32 FTZ RN")


def _wide(access: _Access, register: int) -> Array:
    if register == ZERO_REGISTER:
        return np.zeros(len(access.warps), np.uint64)
    low, high = access.values(register).astype(np.uint64), access.values(register + 1).astype(np.uint64)
    return low | high << np.uint64(32)


ACCESSES = {
    "LDG": _load("global"),
    "LD": _load("global"),
    "STG": _store("global"),
    "ST": _store("global"),
    "LDS": _load("shared"),
    "STS": _store("shared"),
    "LDL": _load("local"),
    "STL": _store("local"),
    "LDC": operation(_load_constant, "U8 S8 U16 S16 32 64"),
    "ATOM": _atomic("global", returns=True),
    "RED": _atomic("global", returns=False),
    "ATOMS": _atomic("shared", returns=True),
}
