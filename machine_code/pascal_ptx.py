"""Kernels as PTX for compute_61, which a newer card's driver compiles: a Pascal's code paths, run there.

PTX is made where an NVRTC of CUDA 12 is, into one file, and read where a card is, whose NVRTC may know
nothing below sm_75.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import torch

from pascaline.cli.interrupts import uninterrupted
from pascaline.core.errors import CompileError
from pascaline.hardware.cuda_driver import Device, Module
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.compiler import Compiler, source_of
from pascaline.kernels.cuda.scratch_memory import ScratchMemory
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation

ARCHITECTURE = "compute_61"
_COMPILER_OF = "sm_61"


def member_of(specialisation: Specialisation) -> str:
    """Its name in the file: other sources or definitions have another."""
    digest = hashlib.sha256(source_of(specialisation.file).digest)
    digest.update("\0".join(specialisation.options).encode())
    return f"{digest.hexdigest()[:32]}.ptx"


def write_ptx(specialisations: Iterable[Specialisation], path: Path) -> dict[str, str]:
    """Compile each into the file; returns what does not compile, with the reason."""
    wanted = {member_of(each): each for each in specialisations}
    failed: dict[str, str] = {}
    # PERF: in processes, since NVRTC makes PTX in one thread of a process at a time: 172 kernels take 22 s on
    # two cores, and took 50 s in two threads.
    processes = ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"))
    beside = path.with_suffix(".part")
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as file:
            with uninterrupted():  # the processes that it starts remain so: they end with this one
                making = {name: processes.submit(_ptx_of, each) for name, each in wanted.items()}
            for name, made in making.items():
                try:
                    file.writestr(name, made.result())
                except CompileError as error:
                    failed[f"{wanted[name].file} {' '.join(wanted[name].options)}"] = str(error)
        beside.replace(path)
    finally:
        # After Ctrl-C, what has not begun is left out; after another, too, no process may be left behind.
        with uninterrupted():
            processes.shutdown(cancel_futures=True)
        beside.unlink(missing_ok=True)
    return failed


def missing_from(path: Path, specialisations: Iterable[Specialisation]) -> list[Specialisation]:
    """Those that the file has not, or has of other sources or definitions. Needs no card.

    Raises
    ------
    CompileError : there is no such file, or it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as file:
            present = frozenset(file.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise CompileError(
            f"no kernels in {path}: {error}", remedy="Prepare them: run_pascal_ptx.py prepare FOLDER"
        ) from None
    return [each for each in specialisations if member_of(each) not in present]


def _ptx_of(specialisation: Specialisation) -> bytes:
    return _compiler().compile(specialisation)


@functools.cache
def _compiler() -> Compiler:
    return Compiler(find_nvrtc(_COMPILER_OF), ARCHITECTURE)


class PascalKernels:
    """Binds launches as `KernelSet` does, to kernels of such a file."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """`device` is the card that the driver compiles for."""
        with zipfile.ZipFile(path) as file:
            self._ptx = {name: file.read(name) for name in file.namelist()}
        # Has torch make its context. One that only `Device` holds is gone at the end of its `with`, and with
        # it every module: the driver, asked for a function of one, then reads memory that is freed.
        torch.cuda.synchronize(device)
        self._scratch = ScratchMemory(device)
        self._ordinal = torch.cuda.current_device()
        self._modules: dict[str, Module] = {}

    def load(self, specialisations: Iterable[Specialisation]) -> None:
        """Have the driver compile them at the same time; what fails does so again in `bind`."""
        members = {member_of(each) for each in specialisations} & self._ptx.keys()
        with ThreadPoolExecutor() as pool:
            for member, made in [(member, pool.submit(self._compiled, member)) for member in members]:
                if made.exception() is None:
                    self._modules[member] = made.result()

    def bind(self, plan: LaunchPlan, addresses: Mapping[str, int | None]) -> BoundLaunch:
        """A launch of `plan`, its scratch memory included.

        Raises
        ------
        CompileError : the file has no such kernel, or one of other sources.
        CudaError : the driver does not compile it.
        """
        member = member_of(plan.specialisation)
        if member not in self._modules:
            self._modules[member] = self._compiled(member)
        with Device(self._ordinal):
            function = self._modules[member].function(plan.specialisation.entry)
            return BoundLaunch(function, plan, {**addresses, **self._scratch.addresses(plan)})

    def _compiled(self, member: str) -> Module:
        if member not in self._ptx:
            raise CompileError("a kernel that the file of PTX has not", remedy="prepare it again")
        with Device(self._ordinal):
            return Module(self._ptx[member])
