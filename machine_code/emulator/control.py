"""Branches, barriers, and what threads of a warp tell each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.operands import TRUE_PREDICATE, Predicate, Register, Word
from emulator.operation import Operation, operation
from emulator.step import Step, whole
from emulator.warps import LANES, Token

Array = np.ndarray[Any, np.dtype[Any]]

_UNDEFINED = np.uint32(0xDEADBEEF)


class BarrierError(Exception):
    """Only some of a warp's threads have come to a barrier."""


def _branch(step: Step) -> None:
    """Those threads go on at the target; where others do not, these wait on the stack."""
    warps, going, target = step.machine.warps, _going(step), _target(step)
    some, staying = going.any(axis=1), step.unguarded & ~going
    parted = some & staying.any(axis=1)
    if parted.any():
        warps.push(step.indices[parted], Token.DIVERGED, staying[parted], step.position + 1)
        warps.active[step.indices[parted]] = going[parted]
    warps.program_counter[step.indices[some]] = target


def _target(step: Step) -> int:
    step.operand(len(step.operands) - 1)
    if step.decoded.target < 0:
        raise step.unknown("no target")
    return step.decoded.target


def _going(step: Step) -> Array:
    """The threads that execute it, of which a condition code may leave those whose last flag fits."""
    going = step.active
    for index, operand in enumerate(step.operands):
        if isinstance(operand, Word) and operand.text.startswith("CC."):
            step.operand(index)
            is_zero = step.machine.warps.is_zero[step.selected]
            name = operand.text.removeprefix("CC.")
            if name not in ("EQ", "EQU", "NE", "NEU"):
                raise step.unknown(f"the condition {name}")
            going = going & (is_zero if name.startswith("EQ") else ~is_zero)
    return going


def _push(kind: Token) -> Operation:
    def execute(step: Step) -> None:
        step.machine.warps.push(step.indices, kind, step.unguarded, _target(step))

    return operation(execute)


def _synchronise(step: Step) -> None:
    step.machine.warps.leave(step.indices, _going(step))


def _leave_to(kind: Token) -> Operation:
    def execute(step: Step) -> None:
        step.machine.warps.leave_to(step.indices, _going(step), kind)

    return operation(execute)


def _call(step: Step) -> None:
    if step.decoded.guard is not None:
        raise step.unknown("a call of some threads")
    step.machine.warps.push(step.indices, Token.CALL, step.active, step.position + 1)
    step.machine.warps.program_counter[step.indices] = _target(step)


def _exit(step: Step) -> None:
    step.machine.warps.exit(step.indices, _going(step))


def _barrier(step: Step) -> None:
    """All warps of a block wait for each other; those whose threads have all ended are not waited for."""
    if len(step.operands) != 1 or step.immediate(0) != 0:
        raise step.unknown("only barrier 0 of all threads is known")
    warps = step.machine.warps
    if (step.active != warps.alive[step.indices]).any():
        raise BarrierError(f"{step.decoded}: only some threads of a warp have come here")
    warps.at_barrier[step.indices] = True


def _nothing(step: Step) -> None:
    """Waiting and ordering, of which there is no need when every instruction ends before the next begins."""
    for index in range(len(step.operands)):
        step.operand(index)


def _shuffle(step: Step) -> None:
    """A value of another lane. Source: PTX ISA, shfl; what an inactive lane has is undefined."""
    count = len(step.indices)
    value, amount = whole(step.integer(2), count), whole(step.integer(3), count).astype(np.int64) & 31
    bounds = whole(step.integer(4), count).astype(np.int64)
    lane = np.arange(LANES)[None, :]
    clamp, segment = bounds & 31, bounds >> 8 & 31
    last = lane & segment | clamp & ~segment
    if step.has("UP"):
        source = lane - amount
        is_valid = source >= last
    elif step.has("DOWN"):
        source = lane + amount
        is_valid = source <= last
    elif step.has("BFLY"):
        source = lane ^ amount
        is_valid = source <= last
    else:
        source = lane & segment | amount & ~segment
        is_valid = source <= last
    source = np.where(is_valid, source, lane)
    result = np.where(
        np.take_along_axis(step.active, source, 1), np.take_along_axis(value, source, 1), _UNDEFINED
    )
    step.write(1, result)
    step.write_predicate(0, is_valid)


def _vote(step: Step) -> None:
    """Over the active threads: the lanes that say yes, and whether all, any, or all alike."""
    says = whole(step.predicate(len(step.operands) - 1), len(step.indices))
    yes = says & step.active
    ballot = (yes.astype(np.uint64) << np.arange(LANES, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    for index, operand in enumerate(step.operands[:-1]):
        step.operand(index)
        if isinstance(operand, Register):
            step.write(index, whole(ballot[:, None].astype(np.uint32), len(step.indices)))
        elif isinstance(operand, Predicate):
            denied = (~says & step.active).any(axis=1)
            agreed = yes.any(axis=1)
            value = np.asarray(
                ~denied if step.has("ALL") else agreed if step.has("ANY") else ~(denied & agreed)
            )
            step.write_predicate(index, whole(value[:, None], len(step.indices)))


def _special_register(step: Step) -> None:
    name = step.word(1)
    if name not in step.machine.special:
        raise step.unknown("a special register that is not known")
    step.write(0, step.machine.special[name][step.selected])


def _flags(step: Step, index: int) -> list[tuple[int, int, Array]]:
    """Where flags are kept in a register (first bit and the bits' mask), and those flags.

    PR are the predicates; CC is the condition code, of which zero and carry are kept: no instruction that is
    known reads others.
    """
    warps, name = step.machine.warps, step.word(index)
    if name == "PR":
        return [(number, 1, warps.predicates[number]) for number in range(TRUE_PREDICATE)]
    if name == "CC":
        return [(0, 1, warps.is_zero), (2, 3, warps.carry)]
    raise step.unknown(f"the flags {name}")


def _flags_to_register(step: Step) -> None:
    """Flags as bits, under a mask."""
    value: Array = np.zeros((len(step.indices), LANES), np.uint32)
    for first, _, flag in _flags(step, 1):
        value = value | flag[step.selected].astype(np.uint32) << np.uint32(first)
    mask = step.integer(3)
    step.write(0, step.integer(2) & ~mask | value & mask)


def _register_to_flags(step: Step) -> None:
    value, mask = step.integer(1), step.immediate(2)
    for first, bits, flag in _flags(step, 0):
        if mask >> first & bits == bits:
            step.write_flag(flag, (value >> np.uint32(first) & np.uint32(bits)).astype(flag.dtype))
        elif mask >> first & bits:
            raise step.unknown("a part of the carry")


CONTROL = {
    "BRA": operation(_branch),
    "SSY": _push(Token.SSY),
    "PBK": _push(Token.PBK),
    "PCNT": _push(Token.PCNT),
    "SYNC": operation(_synchronise),
    "BRK": _leave_to(Token.PBK),
    "CONT": _leave_to(Token.PCNT),
    "CAL": operation(_call, "NOINC"),
    "JCAL": operation(_call, "NOINC"),
    "RET": _leave_to(Token.CALL),
    "EXIT": operation(_exit),
    "BAR": operation(_barrier, "SYNC"),
    "NOP": operation(_nothing),
    "DEPBAR": operation(_nothing, "LE"),
    "MEMBAR": operation(_nothing, "CTA GL SYS VC IVALLD IVALLT IVALLTD"),
    "CCTL": operation(_nothing, "E U D IVALL"),
    "SHFL": operation(_shuffle, "UP DOWN BFLY IDX"),
    "VOTE": operation(_vote, "ALL ANY EQ"),
    "S2R": operation(_special_register),
    "P2R": operation(_flags_to_register),
    "R2P": operation(_register_to_flags),
}
