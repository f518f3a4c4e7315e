"""Libraries for the CPU of kernels written for cards: compiled once, kept by what they are made of."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pascaline.kernels.cuda
from pascaline.core.env import cache_dir
from pascaline.kernels.cuda.specialisation import Specialisation

HOST = Path(__file__).parent
KERNELS = Path(pascaline.kernels.cuda.__file__).parent

CHECKS = "alignment,bounds,shift-exponent,integer-divide-by-zero"
"""What a card faults on or leaves undefined; the entries that they call are in host_launch.h."""
OPTIONS = (
    "-std=c++17",
    "-O1",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-gnu-unique",
    "-fno-exceptions",
    "-fno-rtti",
    "-ffp-contract=off",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-U_FORTIFY_SOURCE",  # jumps between stacks are what fibers do
    "-ftrivial-auto-var-init=pattern",
    f"-fsanitize={CHECKS}",
    "-fno-sanitize-recover=all",
    "-Wno-unknown-pragmas",
    "-DPASCALINE_HOST",
)
_PLACE = re.compile(r"<0x([0-9a-f]+)>")


class Library:
    """One kernel, loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        loaded = ctypes.CDLL(str(path))
        self.parameter_count: int = loaded.parameter_count()
        self._parameter_bytes = loaded.parameter_bytes
        self.static_shared_bytes: int = loaded.static_shared_bytes()
        self.launch = loaded.launch
        self.launch.argtypes = (
            ctypes.c_void_p,  # grid
            ctypes.c_void_p,  # block
            ctypes.c_size_t,  # dynamic shared memory
            ctypes.c_void_p,  # addresses of arguments
            ctypes.c_void_p,  # numbers of blocks
            ctypes.c_size_t,
            ctypes.c_uint64,  # order
            ctypes.c_int,  # poison
            ctypes.c_char_p,  # message
            ctypes.c_size_t,
        )
        loaded.static_shared_bytes.restype = ctypes.c_size_t

    def parameter_bytes(self, number: int) -> int:
        return int(self._parameter_bytes(number))

    def with_lines(self, message: str) -> str:
        """`message` with the source's lines for its places in the machine code, inlined callers after."""

        def lines(match: re.Match[str]) -> str:
            place = int(match[1], 16)
            command = ["addr2line", "-i", "-e", str(self.path), hex(place)]
            try:
                found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            except (OSError, subprocess.CalledProcessError):
                return match[0]
            seen = [f"{Path(line).name}" for line in found.splitlines()]
            return " < ".join(line.split(" (")[0] for line in seen)

        return _PLACE.sub(lines, message)


def compiler() -> list[str]:
    """$CXX, or the first C++ compiler on PATH.

    Raises
    ------
    RuntimeError : there is none.
    """
    chosen = shlex.split(os.environ.get("CXX", ""))
    chosen = chosen or [path for path in map(shutil.which, ("c++", "g++", "clang++")) if path][:1]
    if not chosen:
        raise RuntimeError("no C++ compiler: kernels cannot run on the CPU (install g++, or set CXX)")
    return chosen


@functools.cache
def _sources(folder: Path) -> bytes:
    """All that a library of a kernel in `folder` may be made of."""
    digest = hashlib.sha256()
    for path in sorted({*HOST.glob("host_*"), *KERNELS.glob("*.cu*"), *folder.glob("*.cu*")}):
        if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.digest()


@functools.cache
def library(specialisation: Specialisation, folder: Path = KERNELS) -> Library:
    """The kernel for the CPU, compiled if it was not before.

    Raises
    ------
    RuntimeError : the compiler's errors.
    """
    command = [*OPTIONS, *specialisation.options]
    command += [f"-I{HOST}", f"-I{KERNELS}", f"-DPASCALINE_ENTRY={specialisation.entry}"]
    command += [f'-DPASCALINE_SOURCE="{folder / specialisation.file}"', str(HOST / "host_entry.cpp")]
    key = hashlib.sha256(_sources(folder) + "\0".join([*compiler(), *command]).encode()).hexdigest()[:24]
    place = cache_dir() / "host-kernels" / f"{specialisation.entry}-{key}.so"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, then moved: other processes compile the same.
        with tempfile.TemporaryDirectory(dir=place.parent) as temporary:
            compiled, linked = Path(temporary, "kernel.o"), Path(temporary, "kernel.so")
            _call([*compiler(), *_header(), *command, "-c", "-o", str(compiled)])
            # Without the checks' own library: their entries are in the kernel's.
            _call([*compiler(), "-shared", "-o", str(linked), str(compiled), "-lm", "-Wl,--no-undefined"])
            linked.replace(place)
    return Library(place)


@functools.cache
def _header() -> list[str]:
    """Options that bring in the stand-in as the compiler has read it before: a fifth of the time of most."""
    options = [*OPTIONS, f"-I{HOST}"]
    key = hashlib.sha256(_sources(KERNELS) + "\0".join([*compiler(), *options]).encode()).hexdigest()[:24]
    folder = cache_dir() / "host-kernels" / f"header-{key}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            # A compiler of another version passes over what was read, and reads this.
            text = Path(temporary, "header", "stand_in.h")
            text.parent.mkdir()
            text.write_text('#include "host_cuda.h"\n')
            _call([*compiler(), *options, "-x", "c++-header", str(text), "-o", f"{text}.gch"])
            with contextlib.suppress(OSError):  # another process was first
                text.parent.rename(folder)
    return ["-include", str(folder / "stand_in.h")]


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr[-8000:]}")


def compile_all(specialisations: Iterable[Specialisation], folder: Path = KERNELS) -> None:
    """Compile kernels side by side, one a core."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for done in [pool.submit(library, each, folder) for each in dict.fromkeys(specialisations)]:
            done.result()
