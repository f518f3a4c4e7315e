"""One instruction, as the operations see it: values of its operands in, results out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from disassembler import Instruction

from emulator.memory import GlobalMemory, PrivateMemory
from emulator.operands import (
    TRUE_PREDICATE,
    ZERO_REGISTER,
    Address,
    Constant,
    Immediate,
    Modifiers,
    Operand,
    Predicate,
    Register,
    Word,
    parse_operand,
)
from emulator.warps import LANES, Warps

Array = np.ndarray[Any, np.dtype[Any]]


class UnknownInstructionError(NotImplementedError):
    """The emulator does not know an instruction, or one of its modifiers."""


class Decoded:
    """An instruction with its operands understood."""

    def __init__(self, instruction: Instruction, labels: Mapping[str, int]) -> None:
        self.instruction = instruction
        self.name = instruction.name
        self.modifiers = instruction.modifiers
        self.operands = tuple(parse_operand(text) for text in instruction.operands)
        self.guard = parse_operand(instruction.guard) if instruction.guard else None
        self.target = labels[instruction.target] if instruction.target is not None else -1
        self.is_checked = False

    def __str__(self) -> str:
        one = self.instruction
        guard = f"@{one.guard} " if one.guard else ""
        return f"{one.address:#06x}: {guard}{one.opcode} {', '.join(one.operands)}".rstrip()


@dataclass(frozen=True)
class Machine:
    """What the threads of one launch run on.

    Parameters
    ----------
    constants : the words of each constant bank.
    special : values of special registers, (warps, 32) each.
    """

    warps: Warps
    memory: GlobalMemory
    shared: PrivateMemory
    local: PrivateMemory
    constants: Mapping[int, Array]
    special: Mapping[str, Array]


class Step:
    """One instruction executed by those warps that have come to it.

    Parameters
    ----------
    selected : a slice where it is all warps, so that values are read without a copy; else their indices.
    indices : of those warps.
    active : (selected warps, 32) threads that execute it, the guard applied.
    """

    def __init__(
        self, machine: Machine, decoded: Decoded, selected: slice | Array, indices: Array, position: int
    ) -> None:
        self.machine = machine
        self.decoded = decoded
        self.modifiers = decoded.modifiers
        self.operands: tuple[Operand, ...] = decoded.operands
        self.selected = selected
        self.indices = indices
        self.position = position
        warps = machine.warps
        self.unguarded: Array = warps.active[selected].copy()
        guard = decoded.guard
        self.active = (
            self.unguarded & self._predicate(guard) if isinstance(guard, Predicate) else self.unguarded
        )
        self._everywhere = bool(self.active.all())
        self._used: set[int] = set()

    # Reading

    def operand(self, index: int) -> Operand:
        """An operand, which is taken into account with that."""
        self._used.add(index)
        return self.operands[index]

    def refuse_unused(self) -> None:
        """Raise where the operation has not looked at an operand: its meaning is not known then."""
        if self.decoded.is_checked:
            return
        self.decoded.is_checked = True
        unused = set(range(len(self.operands))) - self._used
        if unused:
            raise self.unknown(f"operand {min(unused)} is not taken into account")

    def has(self, modifier: str) -> bool:
        """Whether the opcode has it."""
        return modifier in self.modifiers

    def integer(self, index: int) -> Array:
        """An operand as uint32, its signs applied; (warps, 32), or (1, 1) where it is the same everywhere."""
        operand = self.operand(index)
        if isinstance(operand, Immediate):
            return np.full((1, 1), operand.integer_bits, np.uint32)
        raw, modifiers = self._raw(index)
        raw = _part(raw, modifiers.part)
        if modifiers.absolute:
            raw = np.abs(raw.view(np.int32)).view(np.uint32)
        if modifiers.invert:
            raw = ~raw
        return (~raw + np.uint32(1)) if modifiers.negate else raw

    def signed(self, index: int) -> Array:
        """The same as int32."""
        return self.integer(index).view(np.int32)

    def floating(self, index: int) -> Array:
        """The same as fp32, its signs applied to the sign bit."""
        operand = self.operand(index)
        if isinstance(operand, Immediate):
            return np.full((1, 1), operand.float_bits, np.uint32).view(np.float32)
        raw, modifiers = self._raw(index)
        if modifiers.absolute:
            raw = raw & np.uint32(0x7FFFFFFF)
        if modifiers.negate:
            raw = raw ^ np.uint32(0x80000000)
        return raw.view(np.float32)

    def bits(self, index: int) -> Array:
        """An operand as it lies in its register, whatever signs and parts the instruction gives it."""
        operand = self.operand(index)
        if isinstance(operand, Immediate):
            return np.full((1, 1), operand.integer_bits, np.uint32)
        return self._raw(index)[0]

    def signs(self, index: int) -> Modifiers:
        """The signs and parts of an operand, for operations that apply them in their own way."""
        operand = self.operand(index)
        return operand.modifiers if isinstance(operand, Register | Constant) else Modifiers()

    def predicate(self, index: int) -> Array:
        """A predicate operand."""
        operand = self.operand(index)
        if not isinstance(operand, Predicate):
            raise self.unknown(f"operand {index} is no predicate")
        return self._predicate(operand)

    def pair(self, index: int) -> Array:
        """Two neighbouring registers as uint64."""
        register = self.register(index)
        low, high = self.read(register).astype(np.uint64), self.read(register + 1).astype(np.uint64)
        return low | high << np.uint64(32)

    def word(self, index: int) -> str:
        """A special register's name."""
        operand = self.operand(index)
        return operand.text if isinstance(operand, Word) else ""

    def immediate(self, index: int) -> int:
        """A number that the instruction holds."""
        operand = self.operand(index)
        if not isinstance(operand, Immediate):
            raise self.unknown(f"operand {index} is no number")
        return operand.integer_bits

    def register(self, index: int) -> int:
        """A register's number."""
        operand = self.operand(index)
        if not isinstance(operand, Register):
            raise self.unknown(f"operand {index} is no register")
        return operand.index

    def address(self, index: int) -> Address:
        """[R2+0x10]."""
        operand = self.operand(index)
        if not isinstance(operand, Address):
            raise self.unknown(f"operand {index} is no address")
        return operand

    def read(self, register: int) -> Array:
        """A register as it is."""
        if register == ZERO_REGISTER:
            return np.zeros((1, 1), np.uint32)
        found: Array = self.machine.warps.registers[register][self.selected]
        return found

    def carry(self) -> Array:
        """The carry as uint64."""
        found: Array = self.machine.warps.carry[self.selected].astype(np.uint64)
        return found

    def constant_words(self, bank: int) -> Array:
        """A constant bank's uint32 words."""
        if bank not in self.machine.constants:
            raise self.unknown(f"there is no constant bank {bank}")
        return self.machine.constants[bank]

    # Writing

    def write(self, index: int, value: Array) -> None:
        """A result of 32 bits: uint32, int32, fp32 as they are; int64 and uint64 lose their upper half."""
        words = as_words(value)
        if self._sets_flags(index):
            self._store(self.machine.warps.is_zero, words == 0)
        register = self.register(index)
        if register != ZERO_REGISTER:
            self.write_register(register, words)

    def write_register(self, register: int, words: Array) -> None:
        """uint32 values into a register of those threads that execute."""
        self._store(self.machine.warps.registers[register], words)

    def write_predicate(self, index: int, value: Array) -> None:
        """Booleans into a predicate; PT takes none."""
        operand = self.operand(index)
        if not isinstance(operand, Predicate):
            raise self.unknown(f"operand {index} is no predicate")
        if operand.index != TRUE_PREDICATE:
            self.write_flag(self.machine.warps.predicates[operand.index], value)

    def write_flag(self, flag: Array, value: Array) -> None:
        """Values into a flag (warps, 32) of those threads that execute."""
        self._store(flag, value)

    def write_sum(self, index: int, total: Array) -> None:
        """A sum in uint64 whose upper word is the carry; the flags are written where the result has .CC.

        ptxas adds three words of 64 bits by IADD3 and IADD3.X, which is right only if the carry may be 2.
        """
        low = total & np.uint64(0xFFFFFFFF)
        warps = self.machine.warps
        self.write(index, low)
        if self._sets_flags(index):
            self._store(warps.carry, (total >> np.uint64(32) & np.uint64(3)).astype(np.uint8))

    def _sets_flags(self, index: int) -> bool:
        operand = self.operands[index]
        return isinstance(operand, Register) and operand.sets_flags

    # Errors

    def unknown(self, what: str) -> UnknownInstructionError:
        """An error that names the instruction."""
        return UnknownInstructionError(f"{self.decoded}: {what}")

    def _raw(self, index: int) -> tuple[Array, Modifiers]:
        operand = self.operand(index)
        if isinstance(operand, Register):
            return self.read(operand.index), operand.modifiers
        if isinstance(operand, Constant) and operand.register is None:
            words = self.constant_words(operand.bank)
            first, rest = divmod(operand.offset, 4)
            if rest or first >= words.size:
                raise self.unknown(f"constant bank {operand.bank} has {4 * words.size} bytes")
            return words[first].reshape(1, 1), operand.modifiers
        raise self.unknown(f"operand {index} is no value")

    def _predicate(self, operand: Predicate) -> Array:
        value: Array = self.machine.warps.predicates[operand.index][self.selected]
        return ~value if operand.negate else value

    def _store(self, target: Array, value: Array) -> None:
        if self._everywhere:
            target[self.selected] = value
        elif isinstance(self.selected, slice):
            np.copyto(target, value, where=self.active)
        else:
            part = target[self.selected]
            np.copyto(part, value, where=self.active)
            target[self.selected] = part


def as_words(value: Array) -> Array:
    """Results of any type as uint32."""
    if value.dtype.itemsize == 4:
        return value.view(np.uint32)
    return value.astype(np.uint64).astype(np.uint32) if value.dtype.kind == "u" else wrapped(value)


def wrapped(value: Array) -> Array:
    """int64 (or booleans) as uint32, the upper half dropped."""
    found: Array = (value.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)
    return found


def whole(value: Array, warps: int) -> Array:
    """A value that may be the same everywhere as (warps, 32)."""
    return np.broadcast_to(value, (warps, LANES))


def _part(raw: Array, part: str | None) -> Array:
    if part is None:
        return raw
    if part == "H0":
        return raw & np.uint32(0xFFFF)
    if part == "H1":
        return raw >> np.uint32(16)
    if part.startswith("B"):
        return raw >> np.uint32(8 * int(part[1])) & np.uint32(0xFF)
    raise NotImplementedError(f"the part {part} of a register")
