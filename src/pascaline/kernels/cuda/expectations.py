"""What a kernel's machine code must hold: read by the audit, which disassembles it for every chip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineCodeExpectation:
    """Of one kernel on one chip. No kernel spills registers, and none multiplies halves where that is slow.

    Parameters
    ----------
    multiply_add : the instruction that the main loop is there for ("IDP", "FFMA", "HMMA"); None: without one.
    main_loop_share : of the main loop's instructions are at least that.
    most_registers : of a thread.
    wide_loads : of 16 bytes a thread there are at least so many.
    has_half_arithmetic : sums or products of halves are meant to be there, beside conversions.
    """

    multiply_add: str | None = None
    main_loop_share: float = 0.0
    most_registers: int = 255
    wide_loads: int = 0
    has_half_arithmetic: bool = False
