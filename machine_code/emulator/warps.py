"""The state of all warps of a grid, and how their threads part and meet again.

A warp has one program counter, a mask of its active threads and a stack, as Maxwell and Pascal have. SSY, PBK
and PCNT push a token with the mask and where to go on; a branch that only some threads take pushes the rest.
A thread leaves by SYNC, BRK, CONT or EXIT; when no active one is left, tokens are popped until some are.
Source: the description of such a stack in patent US 7,353,369 (Coon, Lindholm).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from emulator.operands import TRUE_PREDICATE

Array = np.ndarray[Any, np.dtype[Any]]

LANES = 32
_DEPTH = 64
_UNINITIALISED = 0xDEADBEEF


class Token(IntEnum):
    """Why something lies on a warp's stack."""

    DIVERGED = 0
    SSY = 1
    PBK = 2
    PCNT = 3
    CALL = 4


class Warps:
    """All warps of a grid.

    Parameters
    ----------
    registers : of a thread; they start with a value that nothing should depend on.
    thread_exists : (warps, 32); a block's last warp may have fewer threads.
    blocks : (warps,) the block of each.
    """

    def __init__(self, registers: int, thread_exists: Array, blocks: Array) -> None:
        count = len(blocks)
        self.count = count
        self.blocks = blocks
        self.registers = np.full((max(registers, 2), count, LANES), _UNINITIALISED, np.uint32)
        self.predicates = np.zeros((8, count, LANES), bool)
        self.predicates[TRUE_PREDICATE] = True
        self.carry = np.zeros((count, LANES), np.uint8)  # up to 2, of a sum of three
        self.is_zero = np.zeros((count, LANES), bool)  # the flag of the last result with .CC
        self.extreme = np.zeros((count, LANES), np.uint8)  # whose upper word IMNMX.XHI has chosen
        self.active = thread_exists.copy()
        self.alive = thread_exists.copy()
        self.program_counter = np.zeros(count, np.int64)
        self.at_barrier = np.zeros(count, bool)
        self.is_done = np.zeros(count, bool)
        self._height = np.zeros(count, np.int64)
        self._kinds = np.zeros((count, _DEPTH), np.int8)
        self._masks = np.zeros((count, _DEPTH, LANES), bool)
        self._targets = np.zeros((count, _DEPTH), np.int64)

    def push(self, warps: Array, kind: Token, masks: Array, target: int | Array) -> None:
        """A token on the stack of each of `warps`.

        Raises
        ------
        RecursionError : a stack is full.
        """
        height = self._height[warps]
        if height.size and int(height.max()) >= _DEPTH:
            raise RecursionError(f"more than {_DEPTH} tokens on a warp's stack")
        self._kinds[warps, height] = kind
        self._masks[warps, height] = masks
        self._targets[warps, height] = target
        self._height[warps] += 1

    def leave(self, warps: Array, masks: Array) -> None:
        """Threads wait for the rest of their warp at the token that they have come to (SYNC)."""
        self.active[warps] &= ~masks
        self._pop_where_empty(warps)

    def leave_to(self, warps: Array, masks: Array, kind: Token) -> None:
        """Threads go on only where the topmost token of `kind` is popped (BRK, CONT, RET).

        Raises
        ------
        IndexError : a warp has no such token.
        """
        self.active[warps] &= ~masks
        position = self._height[warps] - 1
        going = masks.any(axis=1)
        while going.any():
            if int(position[going].min()) < 0:
                raise IndexError(f"no {kind.name} on a warp's stack")
            going = going & (self._kinds[warps, position] != kind)
            self._masks[warps[going], position[going]] &= ~masks[going]
            position = position - going
        self._pop_where_empty(warps)

    def exit(self, warps: Array, masks: Array) -> None:
        """Threads end."""
        self.alive[warps] &= ~masks
        self.active[warps] &= ~masks
        self._pop_where_empty(warps)

    def _pop_where_empty(self, warps: Array) -> None:
        empty = warps[~self.active[warps].any(axis=1)]
        while empty.size:
            over = self._height[empty] == 0
            self.is_done[empty[over]] = True
            empty = empty[~over]
            self._height[empty] -= 1
            top = self._height[empty]
            self.active[empty] = self._masks[empty, top] & self.alive[empty]
            self.program_counter[empty] = self._targets[empty, top]
            empty = empty[~self.active[empty].any(axis=1)]

    def release_barriers(self) -> None:
        """Let those blocks go on of which every warp waits or is done."""
        if not self.at_barrier.any():
            return
        blocks = int(self.blocks[-1]) + 1
        missing = np.zeros(blocks, bool)
        missing[self.blocks[~self.at_barrier & ~self.is_done]] = True
        self.at_barrier &= missing[self.blocks]
