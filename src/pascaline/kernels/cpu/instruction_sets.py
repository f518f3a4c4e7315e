"""The instruction sets that there is native code for. Standard library only: the build reads this too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
"""Of the sources, and of the libraries built from them."""


@dataclass(frozen=True)
class InstructionSet:
    """A set of vector instructions: the compiler's options and the kernel's names of its parts."""

    name: str
    machine: str
    options: tuple[str, ...]
    flags: frozenset[str]

    @property
    def library(self) -> Path:
        return FOLDER / f"kernels-{self.name}.so"


_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")
# Without the second GCC 12 moves a tile's products apart, and has sums wait in memory: 223 accesses for the
# 128 products of a block by four rows of x, instead of 88. Clang does not have it, and warns.
_NEON = ("-march=armv8.2-a+dotprod", "-fno-schedule-insns")

INSTRUCTION_SETS = (
    InstructionSet(
        "avx512-vnni",
        "x86_64",
        (*_AVX2, *_AVX512),
        frozenset({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}),
    ),
    InstructionSet("avx2", "x86_64", _AVX2, frozenset({"avx2", "fma", "f16c"})),
    InstructionSet("neon-dotprod", "aarch64", _NEON, frozenset({"asimd", "asimddp", "atomics"})),
)
"""The fastest of a machine first."""
