"""What is compiled, and how it is launched: plain values, of which neither needs a card.

The same `LaunchPlan` runs on a card, in the CPU's stand-in for one and in the emulator of machine code.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

Dimensions = tuple[int, int, int]


@dataclass(frozen=True)
class Specialisation:
    """One kernel of one source file, with its constants.

    Parameters
    ----------
    file : in this folder ("linear_decode.cu").
    entry : the `extern "C"` name of the kernel.
    definitions : macros, in the order of the source's description of them.
    """

    file: str
    entry: str
    definitions: tuple[tuple[str, int], ...]

    @property
    def options(self) -> tuple[str, ...]:
        """As compilers take them: ("-DBITS=4", …)."""
        return tuple(f"-D{name}={value}" for name, value in self.definitions)


@dataclass(frozen=True)
class Scratch:
    """Memory that a launch needs beside its operands.

    Parameters
    ----------
    nbytes : of it.
    is_zeroed : it holds zeros before the launch, and the kernel leaves zeros behind.
    """

    nbytes: int
    is_zeroed: bool = False


def bytes_of(scratch: Mapping[str, Scratch]) -> int:
    """Of all buffers together."""
    return sum(each.nbytes for each in scratch.values())


def parts_scratch(partial_bytes: int, tiles: int) -> dict[str, Scratch]:
    """What blocks that share a tile leave for the last of them, and who has arrived (arrivals.cuh)."""
    return {"partials": Scratch(partial_bytes), "arrivals": Scratch(4 * tiles, is_zeroed=True)}


@dataclass(frozen=True)
class Integer:
    """A 32-bit integer argument."""

    value: int


def float_bits(value: float) -> Integer:
    """An fp32 number, for a kernel that takes its bits."""
    return Integer(struct.unpack("<i", struct.pack("<f", value))[0])


Argument = str | Integer
"""The name of a buffer, whose address is passed (null where it is absent), or a number."""


@dataclass(frozen=True)
class LaunchPlan:
    """A launch whose buffers have names yet.

    Parameters
    ----------
    grid, block : in blocks and in threads.
    shared_bytes : dynamic shared memory a block.
    arguments : in the kernel's order.
    scratch : buffers among the arguments that the launch brings itself, by their names.
    begins_early : on chips that overlap launches it may begin while those before it end: the kernel itself
        waits for these before it reads what they wrote, and before it writes. Weights it reads earlier.
    geometry : what was chosen freely, a value of the kernel's own: launches for other rows take it over, so
        that they run the same machine code.
    """

    specialisation: Specialisation
    grid: Dimensions
    block: Dimensions
    arguments: tuple[Argument, ...]
    shared_bytes: int = 0
    scratch: Mapping[str, Scratch] = field(default_factory=dict)
    geometry: object = None
    begins_early: bool = False

    @property
    def scratch_bytes(self) -> int:
        """Of all buffers that the launch brings itself."""
        return bytes_of(self.scratch)


@dataclass(frozen=True)
class ChipLimits:
    """What geometry depends on.

    Parameters
    ----------
    compute_capability : (6, 1).
    multiprocessors : of the card.
    shared_bytes_per_block : the most that a block may have, opted in to where that is needed.
    """

    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_bytes_per_block: int = 48 << 10

    @property
    def overlaps_launches(self) -> bool:
        """Whether a launch may begin before the one before it is done."""
        return self.compute_capability >= (9, 0)

    @property
    def architecture(self) -> str:
        """What to compile for: "sm_61"."""
        return "sm_{}{}".format(*self.compute_capability)
