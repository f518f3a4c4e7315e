"""Build the native CPU kernels with a C++ compiler of this machine, or with the `ziglang` package.

Part of `make setup`, and of making a wheel (hatch_build.py). Builds only what is not there from just these
sources. Without a compiler it says in one line what is lost, and torch computes everything.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import setup_lock

FOLDER = Path(__file__).resolve().parents[1] / "src" / "pascaline" / "kernels" / "cpu"

if TYPE_CHECKING:
    from pascaline.hardware.instruction_sets import (
        INSTRUCTION_SETS,
        LINKING,
        OPTIONS,
        InstructionSet,
        build_id,
        fault_of,
    )
else:
    # By its path: importing the package takes torch a second, and this runs before every `make serve`.
    sys.path.append(str(FOLDER.parents[1] / "hardware"))
    from instruction_sets import (
        INSTRUCTION_SETS,
        LINKING,
        OPTIONS,
        InstructionSet,
        build_id,
        fault_of,
    )

COMPILERS = ("c++", "g++", "clang++")
ZIG = "ziglang==0.17.1"
"""The requirement that stands in for a compiler: 0.1 GB to download, 0.4 GB on disk."""
GLIBC = "2.28"
"""The oldest C library that torch's wheels run on."""
LIBRARY_S = 16
"""What a library takes by either compiler, on a core of its own; rather more."""
LOSS = "the CPU computes with plain torch, which generates several times slower"


@dataclass(frozen=True)
class Compiler:
    """What comes before the options to compile and to link, and the libraries to link to.

    Parameters
    ----------
    own_words : options that this compiler spells otherwise.
    """

    name: str
    compile: tuple[str, ...]
    link: tuple[str, ...]
    libraries: tuple[str, ...]
    own_words: Mapping[str, str] = field(default_factory=dict)


def system_compiler() -> Compiler | None:
    """$CXX, or the first C++ compiler on PATH."""
    chosen = os.environ.get("CXX", "")
    try:
        command = shlex.split(chosen)
    except ValueError:  # unbalanced quotes: taken as a name, which is then not found
        command = [chosen]
    command = command or [path for path in map(shutil.which, COMPILERS) if path][:1]
    return Compiler(Path(command[0]).name, (*command,), (*command,), ()) if command else None


def zig(machine: str) -> Compiler:
    """The compiler of the ziglang package, for the C library `GLIBC` of any machine.

    PERF: linked as C++, or with its own run-time library, it would first compile those: 71 and 10 s. Linking
    takes 0.5 s like this.
    """
    command = (sys.executable, "-m", "ziglang")
    target = ("-target", f"{machine}-linux-gnu.{GLIBC}")
    libraries = ("-nostdlib", "-lc", "-lm", "-lpthread")
    # zig takes no -march for ARM, and of -mcpu its own names alone.
    own_words = {"-march=armv8.2-a+dotprod": "-mcpu=generic+v8_2a+dotprod"}
    return Compiler("ziglang", (*command, "c++", *target), (*command, "cc", *target), libraries, own_words)


def compiler(machine: str) -> Compiler | None:
    """The machine's own compiler, else the ziglang package's."""
    return system_compiler() or (zig(machine) if importlib.util.find_spec("ziglang") else None)


def machines() -> list[str]:
    """The machines that there are kernels for."""
    return sorted({each.machine for each in INSTRUCTION_SETS})


def sets_for(machine: str) -> list[InstructionSet]:
    """The instruction sets of `machine` that there are kernels for."""
    return [each for each in INSTRUCTION_SETS if each.machine == machine]


def outdated(folder: Path, machine: str) -> list[InstructionSet]:
    """The instruction sets whose library in `folder` is missing, cut off or built from other sources."""
    return [each for each in sets_for(machine) if fault_of(folder / each.library.name, folder, each)]


def build(folder: Path, machine: str, chosen: Compiler) -> str | None:
    """Build what is outdated; None, or in words why it could not be. Waits for others that build here."""
    try:
        with setup_lock.alone(folder, "the CPU kernels are being built by another set-up; waiting for it"):
            wanted = outdated(folder, machine)
            if not wanted:
                return None
            for each in wanted:
                (folder / each.library.name).unlink(missing_ok=True)
            shutil.rmtree(folder / "build", ignore_errors=True)
            (folder / "build").mkdir()
            try:
                # A name of its own: what a killed build left running cannot write into this one's files.
                return _build(Path(tempfile.mkdtemp(dir=folder / "build")), wanted, chosen)
            finally:
                shutil.rmtree(folder / "build", ignore_errors=True)
    except OSError as error:
        return str(error)


def _build(place: Path, wanted: list[InstructionSet], chosen: Compiler) -> str | None:
    """Build in `place`, two levels below the sources, all at once, and move what is whole to its place."""
    folder = place.parents[1]
    names = ", ".join(each.name for each in wanted)
    # At once on as many cores; on fewer, in turns.
    expected_s = LIBRARY_S * -(-len(wanted) // len(os.sched_getaffinity(0)))
    print(f"setup: building the CPU kernels ({names}) with {chosen.name}, about {expected_s} s", flush=True)
    started = time.monotonic()
    running = [_Build(place, each, chosen) for each in wanted]
    try:
        for each in running:
            if each.process.wait() != 0:
                return each.problem()
            # A process that has the old file mapped keeps it.
            each.library.replace(folder / each.library.name)
    finally:
        for each in running:
            each.stop()
    print(f"setup: built them in {time.monotonic() - started:.0f} s", flush=True)
    return None


class _Build:
    """The two commands that make a library, running in a process group of their own."""

    def __init__(self, place: Path, instructions: InstructionSet, chosen: Compiler) -> None:
        folder = place.parents[1]
        partial = str(place / f"{instructions.name}.o")
        self.library = place / instructions.library.name
        self._compiler = chosen.name
        # In memory: a full disk must not swallow the message that it is full.
        self._log = os.memfd_create("log")
        identity = f"-Wl,--build-id=0x{build_id(folder, instructions)}"
        options = [chosen.own_words.get(option, option) for option in instructions.options]
        compiling = [*chosen.compile, *OPTIONS, *options, "-c", "library.cpp", "-o", partial]
        linking = [*chosen.link, partial, "-o", str(self.library), *LINKING, identity, *chosen.libraries]
        temporary = {name: str(place) for name in ("TMPDIR", "ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", f"{shlex.join(compiling)} && {shlex.join(linking)}"],
            cwd=folder,
            env={**os.environ, **temporary},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            process_group=0,
        )

    def problem(self) -> str:
        """The first line that tells of an error."""
        lines = os.pread(self._log, 1 << 20, 0).decode(errors="replace").splitlines()
        errors = [line for line in lines if "error" in line]
        return (errors or lines or [f"{self._compiler} failed"])[0]

    def stop(self) -> None:
        """End what still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._log)


def main() -> int:
    """Build what is outdated; 0 even where that fails, because torch stands in."""
    # As an exception, SIGTERM takes the compilers along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = platform.machine()
    if not sets_for(machine):
        print(f"setup: there are no CPU kernels for {machine}: {LOSS}", file=sys.stderr)
    if not outdated(FOLDER, machine):
        return 0
    chosen = compiler(machine)
    if chosen is None:
        mend = f"{sys.executable} -m pip install {ZIG}"
        print(f"setup: no C++ compiler: {LOSS}; this mends it: {mend}", file=sys.stderr)
        return 0
    problem = build(FOLDER, machine, chosen)
    if problem:
        print(f"setup: the CPU kernels were not built ({problem}): {LOSS}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the same command starts it afresh", file=sys.stderr)
        sys.exit(130)
