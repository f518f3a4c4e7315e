"""NVIDIA's run-time compiler, NVRTC, through ctypes: CUDA C++ in, machine code of one architecture out.

It needs neither a driver nor a card nor a toolkit: the packages that torch brings carry it. Machine code (a
cubin) is asked for, never PTX: nothing is left for a driver to compile, and what was compiled is what runs.

Source: NVRTC's documentation (docs.nvidia.com/cuda/nvrtc), its return codes and function names.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pascaline.core.elf import build_id
from pascaline.core.errors import CompileError, UnsupportedError

WHEEL_OF_CUDA_12 = "nvidia-cuda-nvrtc-cu12==12.6.77"
"""The last CUDA that compiles for sm_50 to sm_70; torch 2.7.1's own."""
WHEEL_OF_CUDA_13 = "nvidia-cuda-nvrtc"

_VIRTUAL = "compute_"
_LIBRARY = re.compile(r"libnvrtc\.so\.(\d+)(\.\d+)*")
_PACKAGE_FOLDERS = ("nvidia/*/lib", "torch/lib")  # nvidia/cuda_nvrtc of CUDA 12's wheels, nvidia/cu13 of 13's
_HEADER_FOLDERS = (
    "include",
    "../cuda_runtime/include",
    "targets/x86_64-linux/include",
    "targets/sbsa-linux/include",
)
_TOOLKITS = ("/usr/local/cuda", "/opt/cuda")
HEADER = "cuda_fp16.h"
"""One that kernels include, and that stands for all."""


@dataclass(frozen=True)
class Compiled:
    """Machine code for one architecture.

    Parameters
    ----------
    cubin : what `cuda_driver.Module` loads: machine code, or PTX for a virtual architecture.
    log : warnings; empty when there were none.
    lowered_names : what the machine code calls each asked expression ("scale<float>" -> "_Z5scaleIfEvPf…").
    """

    cubin: bytes
    log: str
    lowered_names: Mapping[str, str] = field(default_factory=dict)


class Nvrtc:
    """One loaded NVRTC library.

    >>> nvrtc = find_nvrtc("sm_61")
    >>> cubin = nvrtc.compile('extern "C" __global__ void nothing() {}', "sm_61").cubin
    """

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises
        ------
        OSError : it does not load, or is no NVRTC that makes machine code (CUDA 11.1 and newer).
        """
        self.path = path
        self._library = ctypes.CDLL(str(path))
        try:
            self._architectures = self._library.nvrtcGetSupportedArchs
            for name in ("nvrtcCompileProgram", "nvrtcGetCUBIN", "nvrtcGetLoweredName"):
                getattr(self._library, name)
            self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        except AttributeError as error:
            raise OSError(f"{path} is no NVRTC of CUDA 11.2 or newer ({error})") from error
        builtins = path.resolve().with_name("libnvrtc-builtins.so.{}.{}".format(*self.version))
        # The compiler opens it by its bare name, and that of CUDA 13.0 does not look beside itself.
        self._builtins = ctypes.CDLL(str(builtins)) if builtins.is_file() else None

    @property
    def headers(self) -> Path | None:
        """The folder of CUDA's headers that belong to it, for an option "-I…"; None if they are missing."""
        root = self.path.parent.parent
        return next((root / each for each in _HEADER_FOLDERS if (root / each / HEADER).is_file()), None)

    @property
    def identity(self) -> str:
        """Version and build: what else the machine code depends on, beside source and options.

        The build is what the linker named it by; NVRTC 12.6 has no such name, and goes by its file.
        """
        try:
            build = build_id(self.path)
        except (OSError, ValueError):
            build = None
        if build is None:
            status = self.path.stat()
            build = f"{status.st_size}-{status.st_mtime_ns}"
        return "NVRTC {}.{} {}".format(*self.version, build)

    @property
    def version(self) -> tuple[int, int]:
        """Of CUDA: (12, 6)."""
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    @property
    def architectures(self) -> tuple[str, ...]:
        """What it makes code for, oldest first: ("sm_50", …)."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        numbers = (ctypes.c_int * count.value)()
        self._check(self._architectures(numbers))
        return tuple(f"sm_{number}" for number in numbers)

    def compile(
        self,
        source: str,
        architecture: str,
        *,
        options: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        names: Sequence[str] = (),
        file_name: str = "kernel.cu",
    ) -> Compiled:
        """Compile CUDA C++ for `architecture` ("sm_61").

        One that begins with "compute_" gives PTX, which a newer card's driver compiles: that is how a chip's
        code paths run on another.

        Parameters
        ----------
        options : further ones of NVRTC ("-DROWS=4", "--use_fast_math", "-I…").
        headers : texts that the source includes, by the names that it includes them by.
        names : expressions of kernels in namespaces or of templates ("scale<float>"), whose names in the
            machine code are wanted.
        file_name : what messages call the source.

        Raises
        ------
        CompileError : the source has mistakes, or the architecture is not one of `architectures`.
        """
        program = ctypes.c_void_p()
        text, name = _no_nul(source).encode(), _no_nul(file_name).encode()
        included = headers or {}
        header_texts, header_names = _words(included.values()), _words(included)
        self._check(
            self._library.nvrtcCreateProgram(
                ctypes.byref(program), text, name, len(included), header_texts, header_names
            )
        )
        try:
            for expression in names:
                self._check(self._library.nvrtcAddNameExpression(program, _no_nul(expression).encode()))
            given = [f"--gpu-architecture={architecture}", *options]
            code = self._library.nvrtcCompileProgram(program, len(given), _words(given))
            log = self._text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog").strip()
            if code != 0:
                # Warnings come first: that of 12.9 about architectures that are to be removed, above all.
                lines = log.splitlines()
                what = next(
                    (line for line in lines if "error" in line), lines[0] if lines else self._meaning(code)
                )
                raise CompileError(f"{file_name} does not compile for {architecture}: {what}", log=log)
            kind = "PTX" if architecture.startswith(_VIRTUAL) else "CUBIN"
            cubin = self._bytes(program, f"nvrtcGet{kind}Size", f"nvrtcGet{kind}")
            lowered = {expression: self._lowered(program, expression) for expression in names}
            return Compiled(cubin, log, lowered)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _lowered(self, program: ctypes.c_void_p, expression: str) -> str:
        found = ctypes.c_char_p()
        self._check(self._library.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(found)))
        return (found.value or b"").decode()

    def _text(self, program: ctypes.c_void_p, size: str, content: str) -> str:
        return self._bytes(program, size, content).rstrip(b"\0").decode(errors="replace")

    def _bytes(self, program: ctypes.c_void_p, size: str, content: str) -> bytes:
        count = ctypes.c_size_t()
        self._check(self._library[size](program, ctypes.byref(count)))
        buffer = ctypes.create_string_buffer(count.value)
        self._check(self._library[content](program, buffer))
        return buffer.raw

    def _check(self, code: int) -> None:
        if code != 0:
            raise CompileError(f"NVRTC ({self.path.name}) says {self._meaning(code)}")

    def _meaning(self, code: int) -> str:
        words = self._library.nvrtcGetErrorString(code)
        return words.decode(errors="replace") if words else f"error {code}"


def nvrtc_libraries(folders: Sequence[str] | None = None) -> tuple[Path, ...]:
    """Every NVRTC here: beside torch first, then in a CUDA toolkit, newest CUDA first in each.

    `folders` are where packages are installed; those of this Python by default.
    """
    found: list[Path] = []
    for folder in _library_folders(sys.path if folders is None else folders):
        here = [path for path in _listed(folder) if _LIBRARY.fullmatch(path.name)]
        found += sorted(here, key=lambda path: _numbers(path.name), reverse=True)
    return tuple({path.resolve(): path for path in found}.values())


def find_nvrtc(architecture: str | None = None) -> Nvrtc:
    """The first NVRTC here that makes code for `architecture` ("sm_61"); any if it is None.

    Raises
    ------
    UnsupportedError : there is none, or none that does; says which were seen.
    """
    seen: list[str] = []
    for path in nvrtc_libraries():
        try:
            nvrtc = Nvrtc(path)
            known = nvrtc.architectures
        except (OSError, CompileError) as error:
            seen.append(f"{path.name} does not load ({error})")
            continue
        if architecture is None or architecture in known:
            return nvrtc
        reach = f"makes code for {known[0]} to {known[-1]}" if known else "makes code for nothing"
        seen.append("NVRTC {}.{} {}".format(*nvrtc.version, reach))
    wanted = f" for {architecture}" if architecture else ""
    raise UnsupportedError(f"no NVRTC{wanted}: {'; '.join(seen) or 'none is installed'}")


def _library_folders(packages: Sequence[str]) -> Iterator[Path]:
    for folder in packages:
        for pattern in _PACKAGE_FOLDERS:
            yield from _matches(Path(folder), pattern)
    for root in _toolkits():
        yield root / "lib64"
        yield root / "lib"


def _toolkits() -> Iterator[Path]:
    configured = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    for root in filter(None, (configured, *_TOOLKITS)):
        yield Path(root)


def _matches(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern), reverse=True)
    except OSError:
        return []


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _words(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [_no_nul(text).encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def _no_nul(text: str) -> str:
    """C ends a text at its first NUL: what lies behind would silently be dropped."""
    if "\0" in text:
        raise CompileError("a NUL character in what is to be compiled")
    return text
