"""Machine code as the timing model takes it: what each instruction waits for, occupies and sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from disassembler import Instruction, KernelCode
from issue_rates import IssueRates
from scheduling import Control

LANES = 32
WAVEFRONT_BYTES = 128
"""That shared memory gives in a clock."""

_REGISTER = re.compile(r"^[-~|!]*R(\d+)\b")
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
_ARITHMETIC_SOURCES = 3
_CONFLICT_FREE = ("control", "barrier", "fence", "special_register", "constant_load", "uniform")


@dataclass(frozen=True)
class Traffic:
    """What one warp's execution of a memory instruction moves, on average.

    Parameters
    ----------
    nbytes : that go through L2 (global) or shared memory's wavefronts × 128 (shared).
    memory_share : of `nbytes`, what comes from memory itself and not from L2.
    from_l2, from_memory : of the executions, those that wait for L2 or for memory; the others find all that
        they read in the multiprocessor's own cache.
    """

    nbytes: float
    memory_share: float = 0.0
    from_l2: float = 1.0
    from_memory: float = 0.0


@dataclass(frozen=True)
class Step:
    """One instruction.

    Parameters
    ----------
    pipe : of its scheduler; "" for memory instructions.
    cycles : that the pipe is busy, register bank conflicts included.
    memory : "", or which of the memory pipes serves it.
    at_most : of a DEPBAR: (barrier, how many of its results may be outstanding); None: no such wait.
    """

    pipe: str
    cycles: float
    latency: float
    memory: str
    traffic: Traffic
    control: Control
    paired: bool
    is_barrier: bool
    at_most: tuple[int, int] | None


@dataclass(frozen=True)
class Program:
    """All of a kernel's instructions."""

    code: KernelCode
    rates: IssueRates
    steps: tuple[Step, ...]
    bank_conflicts: float = field(default=0.0)


def make_program(
    code: KernelCode,
    controls: Sequence[Control],
    rates: IssueRates,
    traffic: Mapping[int, Traffic] | None = None,
) -> Program:
    """Put together what is known of each instruction.

    Parameters
    ----------
    traffic : of memory instructions by their index, where it is known; else that of `default_traffic`.

    Raises
    ------
    UnsupportedError : an opcode has no rate.
    """
    conflicts = list(_bank_conflicts(code.instructions, rates))
    known = traffic or {}
    steps = tuple(
        _step(each, control, rates, conflict, known.get(index, default_traffic(each)))
        for index, (each, control, conflict) in enumerate(
            zip(code.instructions, controls, conflicts, strict=True)
        )
    )
    return Program(code, rates, steps, sum(conflicts))


def lane_bytes(instruction: Instruction) -> int:
    """What one lane of a memory instruction moves: 16 for "LDG.E.128"."""
    return next((_WIDTHS[each] for each in instruction.modifiers if each in _WIDTHS), 4)


def default_traffic(instruction: Instruction) -> Traffic:
    """Where nothing is known of the addresses.

    Neighbouring lanes at neighbouring addresses, without bank conflicts; a wide load from shared memory is
    one of a tile's operand that half of the lanes share, as in every tiled product here.
    """
    nbytes = LANES * lane_bytes(instruction)
    is_shared_read = instruction.name == "LDS" and lane_bytes(instruction) > WAVEFRONT_BYTES // LANES
    return Traffic(nbytes / 2 if is_shared_read else nbytes)


def _step(
    instruction: Instruction, control: Control, rates: IssueRates, conflict: float, traffic: Traffic
) -> Step:
    described = rates.class_of(instruction)
    return Step(
        pipe="" if described.memory else described.pipe,
        cycles=described.cycles + conflict,
        latency=described.latency,
        memory=described.memory or "",
        traffic=traffic,
        control=control,
        paired=instruction.paired,
        is_barrier=instruction.name == "BAR" and "ARV" not in instruction.modifiers,
        at_most=_at_most(instruction),
    )


def _at_most(instruction: Instruction) -> tuple[int, int] | None:
    """DEPBAR.LE SB5, 0x1: barrier 5 may have one result outstanding. DEPBAR {0}: barrier 0 none."""
    if instruction.name != "DEPBAR":
        return None
    if len(instruction.operands) < 2:
        return int(instruction.operands[0].strip("{}")), 0
    return int(instruction.operands[0].removeprefix("SB")), int(instruction.operands[1], 16)


def _bank_conflicts(instructions: Sequence[Instruction], rates: IssueRates) -> Iterator[float]:
    """Further clocks that each instruction's operands take to read.

    Register r lies in bank r mod `register_banks`. What the instruction before it marked `.reuse` in the same
    place is still latched and not read again (maxas, wiki, SGEMM).
    """
    latched: dict[int, int] = {}
    for each in instructions:
        described = rates.class_of(each)
        if described.memory or described.name in _CONFLICT_FREE:
            latched = {}
            yield 0.0
            continue
        sources = _sources(each)
        read = {register for place, (register, _) in sources.items() if latched.get(place) != register}
        banks = [register % rates.register_banks for register in read]
        most = max((banks.count(bank) for bank in set(banks)), default=0)
        yield float(max(0, -(-most // rates.reads_per_bank) - 1))
        latched = {place: register for place, (register, reused) in sources.items() if reused}


def _sources(instruction: Instruction) -> dict[int, tuple[int, bool]]:
    found: dict[int, tuple[int, bool]] = {}
    for place, operand in enumerate(instruction.operands[1:]):
        register = _REGISTER.match(operand)
        if register is not None and len(found) < _ARITHMETIC_SOURCES:
            found[place] = (int(register[1]), ".reuse" in operand)
    return found
