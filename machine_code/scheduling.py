"""What the compiler wrote beside each instruction: how long to wait after it, and on which barriers.

Since Maxwell the hardware follows these numbers; they are why the code of a chip says how fast one warp can
run it. Three instructions of 64 bits share a word before them (Maxwell, Pascal); since Volta they are in the
instruction's own 128 bits.

Source: S. Gray, maxas, its wiki's page on control codes (https://github.com/NervanaSystems/maxas/wiki/Control-Codes);
Z. Jia et al., https://arxiv.org/abs/1804.06826, chapter 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cubin import code_bytes
from disassembler import KernelCode

_WORD = 8
_GROUP = 4  # words: one of control, three instructions
_FIELD_BITS = 21
_VOLTA_SHIFT = 41
_NO_BARRIER = 7
_FIRST_OF_VOLTA = 70


@dataclass(frozen=True)
class Control:
    """One instruction's part of the schedule.

    Parameters
    ----------
    stall : clocks until the warp's next instruction; 0: together with it.
    write_barrier, read_barrier : released when the result is there, or the operands are read; None: no.
    awaits : barriers that must have been released before it is issued.
    """

    stall: int
    write_barrier: int | None
    read_barrier: int | None
    awaits: tuple[int, ...]


def controls(cubin: bytes, code: KernelCode) -> tuple[Control, ...]:
    """One for each of `code.instructions`.

    Raises
    ------
    ValueError : `cubin` has no such kernel.
    """
    content = code_bytes(cubin, code.name)
    is_volta = int(code.architecture.removeprefix("sm_")) >= _FIRST_OF_VOLTA
    return tuple(
        _volta(content, each.address) if is_volta else _maxwell(content, each.address)
        for each in code.instructions
    )


def _maxwell(content: bytes, address: int) -> Control:
    group, position = divmod(address // _WORD, _GROUP)
    (word,) = struct.unpack_from("<Q", content, group * _GROUP * _WORD)
    return _control(word >> _FIELD_BITS * (position - 1))


def _volta(content: bytes, address: int) -> Control:
    (word,) = struct.unpack_from("<Q", content, address + _WORD)
    return _control(word >> _VOLTA_SHIFT)


def _control(field: int) -> Control:
    return Control(
        stall=field & 15,
        write_barrier=_barrier(field >> 5),
        read_barrier=_barrier(field >> 8),
        awaits=tuple(barrier for barrier in range(6) if field >> 11 + barrier & 1),
    )


def _barrier(field: int) -> int | None:
    return None if field & 7 == _NO_BARRIER else field & 7
