"""Many kernels compiled side by side, with what the compiler has to say of each."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pascaline.core.errors import CompileError
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.specialisation import Specialisation

_DEPRECATION = re.compile(r"nvrtc: warning: Architectures prior to .* are deprecated and may be removed.*")
"""NVRTC 12.9 says so of every architecture below sm_75, whatever it compiles."""


@dataclass(frozen=True)
class Compilation:
    """What became of one kernel.

    Parameters
    ----------
    cubin : None where it does not compile.
    complaints : the error's first line, or all that the compiler warns of; empty: nothing.
    processor_s : of the thread that compiled it.
    """

    architecture: str
    specialisation: Specialisation
    cubin: bytes | None
    complaints: tuple[str, ...]
    processor_s: float

    def __str__(self) -> str:
        options = " ".join(self.specialisation.options)
        return f"{self.architecture} {self.specialisation.file} {options}: {'; '.join(self.complaints)}"


def compile_side_by_side(work: Sequence[tuple[Compiler, Specialisation]]) -> Iterator[Compilation]:
    """Each of `work`, in its order, by as many threads as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_compilation, *zip(*work, strict=True)) if work else ()


def _compilation(compiler: Compiler, specialisation: Specialisation) -> Compilation:
    began = time.thread_time()
    cubin = None
    try:
        made = compiler.compiled(specialisation)
        cubin, complaints = made.cubin, warnings_of(made.log)
    except CompileError as error:
        complaints = (error.seen,)
    spent_s = time.thread_time() - began
    return Compilation(compiler.architecture, specialisation, cubin, complaints, spent_s)


def warnings_of(log: str) -> tuple[str, ...]:
    """The lines of a compiler's log, without that about old architectures."""
    return tuple(line for line in log.splitlines() if line and not _DEPRECATION.fullmatch(line))
