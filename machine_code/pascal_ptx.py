"""Kernels as PTX for compute_61, which a newer card's driver compiles: a Pascal's code paths, run there.

PTX is made where an NVRTC of CUDA 12 is, into one file, and read where a card is, whose NVRTC may know
nothing below sm_75.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from pascaline.core.errors import CompileError
from pascaline.hardware.cuda_driver import Device, Module
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.compiler import Compiler, source_of
from pascaline.kernels.cuda.scratch_memory import ScratchMemory
from pascaline.kernels.cuda.specialisation import LaunchPlan, Specialisation

ARCHITECTURE = "compute_61"
_COMPILER_OF = "sm_61"
_THREADS = 2


def member_of(specialisation: Specialisation) -> str:
    """Its name in the file: other sources or definitions have another."""
    digest = hashlib.sha256(source_of(specialisation.file).digest)
    digest.update("\0".join(specialisation.options).encode())
    return f"{digest.hexdigest()[:32]}.ptx"


def write_ptx(specialisations: Iterable[Specialisation], path: Path) -> dict[str, str]:
    """Compile each into the file; returns what does not compile, with the reason."""
    compiler = Compiler(find_nvrtc(_COMPILER_OF), ARCHITECTURE)
    wanted = {member_of(each): each for each in specialisations}
    failed: dict[str, str] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, ThreadPoolExecutor(_THREADS) as pool:
        making = {name: pool.submit(compiler.compile, each) for name, each in wanted.items()}
        for name, made in making.items():
            try:
                file.writestr(name, made.result())
            except CompileError as error:
                failed[f"{wanted[name].file} {' '.join(wanted[name].options)}"] = str(error)
    return failed


class PascalKernels:
    """Binds launches as `KernelSet` does, to kernels of such a file."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """`device` is the card that the driver compiles for."""
        with zipfile.ZipFile(path) as file:
            self._ptx = {name: file.read(name) for name in file.namelist()}
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
