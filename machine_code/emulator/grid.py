"""A whole grid in lockstep: of all warps that can go on, those at the lowest address execute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from disassembler import KernelCode

from emulator.accesses import ACCESSES
from emulator.bits import BITS
from emulator.comparisons import COMPARISONS
from emulator.control import CONTROL, BarrierError
from emulator.conversions import CONVERSIONS
from emulator.floating import FLOATING
from emulator.integers import INTEGERS
from emulator.memory import GlobalMemory, PrivateMemory
from emulator.operation import Operation
from emulator.step import Decoded, Machine, Step, UnknownInstructionError
from emulator.warps import LANES, Warps

Array = np.ndarray[Any, np.dtype[Any]]
Dimensions = tuple[int, int, int]
Observer = Callable[[Step], None]

OPERATIONS: dict[str, Operation] = {
    **INTEGERS,
    **BITS,
    **COMPARISONS,
    **FLOATING,
    **CONVERSIONS,
    **ACCESSES,
    **CONTROL,
}

_BLOCK_AT, _GRID_AT, _STACK_AT = 0x8, 0x14, 0x20  # in constant bank 0
MOST_STEPS = 2_000_000
_NEVER = np.iinfo(np.int64).max


class EndlessError(Exception):
    """A kernel does not come to its end."""


@dataclass(frozen=True)
class Counts:
    """How often each warp executed each instruction.

    Parameters
    ----------
    executed : (instructions, warps); what a guard leaves no thread of counts too.
    """

    code: KernelCode
    executed: Array

    def by_name(self) -> Counter[str]:
        """The executions of all warps together by the opcode's name ("FFMA")."""
        return self._by(lambda index: self.code.instructions[index].name)

    def by_opcode(self) -> Counter[str]:
        """The same by the whole opcode ("LDG.E.128")."""
        return self._by(lambda index: self.code.instructions[index].opcode)

    def of_warp(self, warp: int) -> Counter[str]:
        """One warp's executions by the whole opcode."""
        found: Counter[str] = Counter()
        for index, count in enumerate(self.executed[:, warp]):
            if count:
                found[self.code.instructions[index].opcode] += int(count)
        return found

    def _by(self, key: Any) -> Counter[str]:
        found: Counter[str] = Counter()
        for index, count in enumerate(self.executed.sum(axis=1)):
            if count:
                found[key(index)] += int(count)
        return found


def run_grid(
    code: KernelCode,
    grid: Dimensions,
    block: Dimensions,
    parameters: bytes,
    memory: GlobalMemory,
    *,
    shared_bytes: int = 0,
    most_steps: int = MOST_STEPS,
    observe: Observer | None = None,
) -> Counts:
    """Execute a kernel.

    Parameters
    ----------
    parameters : constant bank 0 from where the kernel's parameters start.
    shared_bytes : dynamic shared memory of a block, beside what the kernel declares.
    most_steps : instructions after which a kernel counts as endless.
    observe : is given each instruction before it is executed.

    Raises
    ------
    UnknownInstructionError : an instruction is not known.
    AccessError : one of memory that is not there.
    BarrierError : some threads of a block wait where others never come.
    EndlessError : more than `most_steps`.
    """
    threads = block[0] * block[1] * block[2]
    warps_per_block = -(-threads // LANES)
    blocks = grid[0] * grid[1] * grid[2]
    block_of_warp = np.repeat(np.arange(blocks), warps_per_block)
    thread = np.tile(np.arange(warps_per_block * LANES).reshape(warps_per_block, LANES), (blocks, 1))
    warps = Warps(code.resources.registers, thread < threads, block_of_warp)
    machine = Machine(
        warps=warps,
        memory=memory,
        shared=PrivateMemory("shared", blocks, code.resources.shared_bytes + shared_bytes),
        local=PrivateMemory("local", warps.count * LANES, code.resources.local_bytes),
        constants=_constants(code, grid, block, parameters),
        special=_special_registers(thread, block_of_warp, grid, block),
    )
    program = [Decoded(each, code.labels) for each in code.instructions]
    executed = np.zeros((len(program), warps.count), np.int64)
    with np.errstate(all="ignore"):
        for _ in range(most_steps):
            if not _step(machine, program, executed, observe):
                return Counts(code, executed)
    raise EndlessError(f"{code.name} takes more than {most_steps} steps")


def _step(machine: Machine, program: list[Decoded], executed: Array, observe: Observer | None) -> bool:
    """One instruction; whether there was one left."""
    warps = machine.warps
    warps.release_barriers()
    can_go_on = ~(warps.is_done | warps.at_barrier)
    if not can_go_on.any():
        if warps.is_done.all():
            return False
        raise BarrierError("some warps of a block have ended their work at a barrier that others wait at")
    at = np.where(can_go_on, warps.program_counter, _NEVER)
    position = int(at.min())
    indices = np.flatnonzero(at == position)
    selected = slice(None) if indices.size == warps.count else indices
    decoded = program[position]
    step = Step(machine, decoded, selected, indices, position)
    if observe is not None:
        observe(step)
    executed[position, selected] += 1
    warps.program_counter[selected] = position + 1
    known = OPERATIONS.get(decoded.name)
    if known is None:
        raise UnknownInstructionError(f"{decoded}: not known")
    if not known.modifiers.issuperset(decoded.modifiers):
        unknown = ", ".join(sorted(set(decoded.modifiers) - known.modifiers))
        raise UnknownInstructionError(f"{decoded}: {unknown} is not known")
    if step.active.any():
        try:
            known.execute(step)
            step.refuse_unused()
        except Exception as error:
            error.add_note(f"at {decoded}")
            raise
    return True


def _constants(code: KernelCode, grid: Dimensions, block: Dimensions, parameters: bytes) -> dict[int, Array]:
    banks = {bank: bytearray(content) for bank, content in code.resources.constants.items()}
    first = banks[0]
    first[len(first) - len(parameters) :] = parameters
    first[_BLOCK_AT : _BLOCK_AT + 12] = np.array(block, np.uint32).tobytes()
    first[_GRID_AT : _GRID_AT + 12] = np.array(grid, np.uint32).tobytes()
    first[_STACK_AT : _STACK_AT + 4] = np.uint32(code.resources.local_bytes).tobytes()
    return {bank: _words(content) for bank, content in banks.items()}


def _words(content: bytearray) -> Array:
    padded = bytes(content) + b"\0" * (-len(content) % 4)
    return np.frombuffer(padded, np.uint32)


def _special_registers(
    thread: Array, block_of_warp: Array, grid: Dimensions, block: Dimensions
) -> dict[str, Array]:
    index = np.broadcast_to(block_of_warp[:, None], thread.shape)
    lane = np.broadcast_to(np.arange(LANES)[None, :], thread.shape)
    values = {
        "SR_TID.X": thread % block[0],
        "SR_TID.Y": thread // block[0] % block[1],
        "SR_TID.Z": thread // (block[0] * block[1]),
        "SR_CTAID.X": index % grid[0],
        "SR_CTAID.Y": index // grid[0] % grid[1],
        "SR_CTAID.Z": index // (grid[0] * grid[1]),
        "SR_LANEID": lane,
        "SR_EQMASK": 1 << lane,
        "SR_LTMASK": (1 << lane) - 1,
        "SR_LEMASK": (2 << lane) - 1,
        "SR_GEMASK": 0xFFFFFFFF & -(1 << lane),
        "SR_GTMASK": 0xFFFFFFFF & -(2 << lane),
    }
    return {name: value.astype(np.uint32) for name, value in values.items()}
