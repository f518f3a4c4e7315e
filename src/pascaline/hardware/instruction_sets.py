"""The instruction sets that there is native code for, and what their libraries are built from.

Standard library only: the build reads this too.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import struct
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "kernels" / "cpu"
"""Of the sources, and of the libraries built from them."""

OPTIONS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-exceptions",
    "-fno-rtti",
    "-ffp-contract=off",  # a product and a sum are rounded once only where the source says so
)
LINKING = ("-shared", "-pthread", "-Wl,--as-needed", "-Wl,--no-undefined", "-Wl,--strip-debug")

_ELF_HEADER = struct.Struct("<40xQ10xHH2x")
"""Of a 64-bit file: where the table of sections begins, the size of an entry and their number."""


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


def build_id(folder: Path, instructions: InstructionSet) -> str:
    """What a library of just the sources in `folder` carries as its build ID, in hexadecimal digits."""
    digest = hashlib.sha256(b"\0".join(option.encode() for option in (*OPTIONS, *LINKING)))
    for path in sorted([*folder.glob("*.cpp"), *folder.glob("*.h")]):
        digest.update(b"\0".join((b"", path.name.encode(), path.read_bytes())))
    digest.update(" ".join(instructions.options).encode())
    return digest.hexdigest()[:40]


def fault_of(library: Path, folder: Path, instructions: InstructionSet) -> str | None:
    """Why a library must not be loaded: it is missing, cut off or built from other sources.

    Where `folder` has no sources, as in a wheel, any sources will do.
    """
    try:
        content = library.read_bytes()
    except OSError:
        return f"{library.name} is not built"
    if content.startswith(b"\x7fELF"):
        table, size, count = _ELF_HEADER.unpack_from(content.ljust(_ELF_HEADER.size, b"\xff"))
        # The table of sections is a file's end. What is cut off may load, and kills the process later.
        if table + size * count > len(content):
            return f"{library.name} is cut off"
    if any(folder.glob("*.cpp")) and bytes.fromhex(build_id(folder, instructions)) not in content:
        return f"{library.name} was built from other sources"
    return None


@functools.cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, in the Linux kernel's words."""
    try:
        return flags_in(Path("/proc/cpuinfo").read_text())
    except OSError:
        return frozenset()


def flags_in(cpuinfo: str) -> frozenset[str]:
    """The first processor's, on x86 and on ARM, in the text of /proc/cpuinfo."""
    found = (line for line in cpuinfo.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(found, ":").split(":")[1].split())


def runnable() -> list[InstructionSet]:
    """The instruction sets of this machine that there are kernels for, the fastest first."""
    machine, flags = platform.machine(), processor_flags()
    return [each for each in INSTRUCTION_SETS if each.machine == machine and each.flags <= flags]


def settled() -> list[InstructionSet]:
    """`runnable`, or the one that PASCALINE_CPU_INSTRUCTIONS names.

    Raises
    ------
    ConfigError : this machine lacks it.
    """
    from pascaline.core.env import cpu_instructions  # the build reads this file without the package
    from pascaline.core.errors import ConfigError

    sets, wanted = runnable(), cpu_instructions()
    if wanted is None:
        return sets
    chosen = [each for each in sets if each.name == wanted]
    if not chosen:
        raise ConfigError(
            f"PASCALINE_CPU_INSTRUCTIONS is {wanted!r}",
            expected=f"what runs here: {', '.join(each.name for each in sets) or 'nothing does'}",
        )
    return chosen
