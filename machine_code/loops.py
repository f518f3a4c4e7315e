"""Loops in machine code: whatever lies between a label and a branch back to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from disassembler import Instruction, KernelCode

ARITHMETIC = ("IDP", "FFMA", "HFMA2", "HMMA", "HGMMA", "IMMA", "DFMA")
"""The instructions that multiply and add: what a linear layer's main loop is there for."""


@dataclass(frozen=True)
class Loop:
    """`instructions[first : last + 1]` of a kernel, `last` being the branch back.

    `innermost` says that no other loop lies inside of it.
    """

    first: int
    last: int
    instructions: tuple[Instruction, ...]
    innermost: bool

    def count(self, name: str) -> int:
        """How many instructions have this name ("FFMA")."""
        return self.names[name]

    @property
    def names(self) -> Counter[str]:
        """How many instructions there are of each name; NOP, which takes no part, left out."""
        return Counter(each.name for each in self.instructions if each.name != "NOP")


def find_loops(code: KernelCode) -> tuple[Loop, ...]:
    """All loops in the order of their starts. Those with the same start are one, up to its last branch back.

    The branch to itself with which every kernel ends is none, and neither are calls.
    """
    last_of: dict[int, int] = {}
    for index, each in enumerate(code.instructions):
        first = code.labels[each.target] if each.name == "BRA" and each.target is not None else index
        if first < index:
            last_of[first] = index
    spans = sorted(last_of.items())
    return tuple(
        Loop(
            first,
            last,
            code.instructions[first : last + 1],
            innermost=not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans),
        )
        for first, last in spans
    )


def main_loop(code: KernelCode) -> Loop | None:
    """The loop with the most multiply-adds, of those that have no other with any inside; None: there is none.

    A loop inside may be there that only waits.
    """
    multiplying = [loop for loop in find_loops(code) if _multiply_adds(loop)]
    innermost = [
        loop
        for loop in multiplying
        if not any(
            each is not loop and loop.first <= each.first and each.last <= loop.last for each in multiplying
        )
    ]
    return max(innermost, key=_multiply_adds, default=None)


def _multiply_adds(loop: Loop) -> int:
    return sum(loop.count(name) for name in ARITHMETIC)
