"""Machine code as a list of instructions: what nvdisasm prints of a cubin, decoded.

nvdisasm of CUDA 12.8 reads everything from sm_50 to sm_120, that of CUDA 13 nothing older than sm_75. The
wheel of triton 3.6.0 carries it, and the first call fetches it from there.
"""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cubin import KernelResources, read_cubin

from pascaline.checkpoint.wheel_member import WheelMember
from pascaline.core.env import cache_dir
from pascaline.core.errors import UnsupportedError
from pascaline.core.progress import ProgressCallback, ignore_progress

NVDISASM = WheelMember(
    what="nvdisasm",
    package="triton",
    wheel="triton-3.6.0-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
    member="triton/backends/nvidia/bin/nvdisasm",
    nbytes=5_894_744,
    sha256="1080bc909a3020761ff4c78a9b7bd9b4937bdb9c0978709cbe52381de612a1f2",
)

_TIMEOUT_S = 60
_EXECUTABLE = 0o755
_ARCHITECTURE = re.compile(r"EF_CUDA_SM(\d+)|\.target\s+sm_(\d+)")
_CODE = re.compile(r"^\.text\.(\S+):$", re.MULTILINE)
_SECTION_END = re.compile(r"^(?:\t\.section|//-----)", re.MULTILINE)
_LABEL = re.compile(r"^([^\s:]+):$")
_INSTRUCTION = re.compile(
    r"""
    \s*/\*(?P<address>[0-9a-f]{4,})\*/ \s*
    (?P<opens>\{)? \s*
    (?:@(?P<guard>!?U?P(?:\d|T)) \s+)?
    (?P<opcode>[A-Z][\w.]*) \s*
    (?P<operands>[^;&?]*?) \s*
    (?:[&?][^;]*)? ;? \s*
    (?P<closes>\})? \s* $
    """,
    re.VERBOSE,
)
_COMMA = re.compile(r"\s*,\s*(?![^\[{]*[\]}])")  # not those inside of brackets
_REMARK = re.compile(r"\(\*.*?\*\)")
_TARGET = re.compile(r"`\(([^)]+)\)")


@dataclass(frozen=True)
class Instruction:
    """One line of machine code.

    Parameters
    ----------
    address : bytes from the kernel's start.
    guard : the predicate that it is executed under, "P0" or "!P0"; None: always.
    opcode : with all of its modifiers: "LDG.E.128".
    operands : as printed, results first: ("R4", "[R2+0x10]").
    paired : it is issued together with the instruction before it (Maxwell and Pascal).
    """

    address: int
    guard: str | None
    opcode: str
    operands: tuple[str, ...]
    paired: bool = False

    @cached_property
    def name(self) -> str:
        """The opcode without modifiers: "LDG"."""
        return self.opcode.partition(".")[0]

    @cached_property
    def modifiers(self) -> tuple[str, ...]:
        """What follows the name: ("E", "128")."""
        return tuple(self.opcode.split(".")[1:])

    @cached_property
    def target(self) -> str | None:
        """The label that it refers to, if it does."""
        found = _TARGET.search(self.operands[-1]) if self.operands else None
        return found[1] if found else None


@dataclass(frozen=True)
class KernelCode:
    """One kernel's machine code.

    Parameters
    ----------
    labels : the index in `instructions` that each label stands before.
    """

    name: str
    architecture: str
    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]
    resources: KernelResources


def nvdisasm_path(report: ProgressCallback = ignore_progress) -> Path:
    """The disassembler, fetched on the first call.

    Raises
    ------
    CheckpointError : it cannot be fetched.
    UnsupportedError : this machine is not x86-64 Linux, which the wheel is for.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UnsupportedError("nvdisasm is fetched for x86-64 Linux only")
    path = NVDISASM.fetch(cache_dir() / "tools" / "nvdisasm-12.8" / "nvdisasm", report)
    path.chmod(_EXECUTABLE)
    return path


def disassemble(cubin: bytes) -> dict[str, KernelCode]:
    """Each kernel of a cubin, by its name in the machine code.

    Raises
    ------
    ValueError : it is no cubin, or nvdisasm prints what is not understood.
    """
    resources = read_cubin(cubin)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(nvdisasm_path()), "-c", file.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise ValueError(f"nvdisasm: {done.stderr.strip()}")
    return parse(done.stdout, resources)


def parse(listing: str, resources: Mapping[str, KernelResources]) -> dict[str, KernelCode]:
    """What `nvdisasm -c` printed, decoded.

    Raises
    ------
    ValueError : a line inside a kernel's code is not understood.
    """
    found = _ARCHITECTURE.search(listing)
    if found is None:
        raise ValueError("nvdisasm names no architecture")
    architecture = f"sm_{found[1] or found[2]}"
    _, *parts = _CODE.split(listing)
    return {
        name: _kernel(name, architecture, _SECTION_END.split(body, maxsplit=1)[0], resources[name])
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def _kernel(name: str, architecture: str, body: str, resources: KernelResources) -> KernelCode:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in body.splitlines():
        if found := _LABEL.match(line):
            labels[found[1]] = len(instructions)
        elif line.lstrip().startswith("/*"):
            instructions.append(_instruction(line))
    return KernelCode(name, architecture, tuple(instructions), labels, resources)


def _instruction(line: str) -> Instruction:
    found = _INSTRUCTION.fullmatch(line)
    if found is None:
        raise ValueError(f"nvdisasm prints what is not understood: {line.strip()!r}")
    operands = _REMARK.sub("", found["operands"]).replace("] [", "][").strip()
    return Instruction(
        address=int(found["address"], 16),
        guard=found["guard"],
        opcode=found["opcode"],
        operands=tuple(_COMMA.split(operands)) if operands else (),
        paired=found["closes"] is not None,
    )
