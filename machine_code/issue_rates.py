"""What each chip's multiprocessor issues, and how long results take: issue_rates.toml, read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from disassembler import Instruction

from pascaline.core.errors import UnsupportedError

REGISTERS = 65536
"""Of a multiprocessor, since Maxwell."""
REGISTER_UNIT = 256
"""A warp's registers are given out in units of this many."""
SHARED_UNIT = 256
"""A block's shared memory is given out in units of this many bytes."""
WARP_UNIT = 4
"""A block's warps are spread over the schedulers in units of this many."""

_TABLE = Path(__file__).with_name("issue_rates.toml")


@dataclass(frozen=True)
class InstructionClass:
    """Opcodes that share a pipe.

    Parameters
    ----------
    pipe : its name; the schedulers' own unless `memory` is given.
    cycles : that one warp's instruction keeps its scheduler's part of the pipe busy.
    latency : clocks until a result that a barrier guards is there.
    memory : "shared", "shuffle", "load", "store" or "atomic": served by the multiprocessor's memory pipes.
    """

    name: str
    pipe: str
    cycles: float
    latency: float
    memory: str | None


@dataclass(frozen=True)
class IssueRates:
    """One architecture's multiprocessor.

    Parameters
    ----------
    schedulers : each issues one instruction a clock (a pair where the code says so).
    warps, blocks, shared_bytes : the most that it holds at once.
    shared_bytes_kept : of each block's shared memory, by the system.
    latency : clocks of "l1", "shared", "shuffle", "l2" and "memory", all from the instruction on.
    l2_bytes : a clock, from L2 to one multiprocessor.
    register_banks, reads_per_bank : of a scheduler's register file, a clock.
    """

    architecture: str
    schedulers: int
    warps: int
    blocks: int
    shared_bytes: int
    shared_bytes_kept: int
    latency: Mapping[str, float]
    l2_bytes: float
    register_banks: int
    reads_per_bank: int
    classes: Mapping[str, InstructionClass]

    def class_of(self, instruction: Instruction) -> InstructionClass:
        """Its class.

        Raises
        ------
        UnsupportedError : the opcode is in no class: it would silently cost nothing.
        """
        name = instruction.name
        specific = f"{name}.{instruction.modifiers[0]}" if instruction.modifiers else name
        found = self.classes.get(specific) or self.classes.get(name)
        if found is None:
            raise UnsupportedError(
                f"{instruction.opcode} on {self.architecture} has no rate: give its class in {_TABLE.name}"
            )
        return found


@cache
def issue_rates(architecture: str) -> IssueRates:
    """Those of "sm_61".

    Raises
    ------
    UnsupportedError : the table does not have it.
    """
    table = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    chips = {chip["architecture"]: chip for chip in table["chip"]}
    if architecture not in chips:
        raise UnsupportedError(f"no issue rates of {architecture}: {_TABLE.name} has {', '.join(chips)}")
    chip = chips[architecture]
    generation = table["generation"][chip["generation"]]
    return IssueRates(
        architecture=architecture,
        schedulers=chip["schedulers"],
        warps=chip["warps"],
        blocks=chip["blocks"],
        shared_bytes=chip["shared_bytes"],
        shared_bytes_kept=chip.get("shared_bytes_kept", 0),
        latency=chip["latency"],
        l2_bytes=chip["l2_bytes"],
        register_banks=generation["register_banks"],
        reads_per_bank=generation["reads_per_bank"],
        classes=_classes(generation["class"], chip.get("cycles", {})),
    )


def _classes(rows: Mapping[str, Any], differing: Mapping[str, float]) -> dict[str, InstructionClass]:
    found = {}
    for name, row in rows.items():
        described = InstructionClass(
            name=name,
            pipe=row.get("pipe", name),
            cycles=differing.get(name, row.get("cycles", 1)),
            latency=row.get("latency", 0),
            memory=row.get("memory"),
        )
        found.update(dict.fromkeys(row["opcodes"], described))
    return found
