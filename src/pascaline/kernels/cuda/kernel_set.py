"""The CUDA kernels of one card: compiled for its chip, loaded, and bound to memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from pascaline.core.env import cache_dir
from pascaline.core.errors import CudaError
from pascaline.core.progress import ProgressCallback
from pascaline.hardware.cuda_driver import Device, Function, Module, driver_version
from pascaline.hardware.probe import installed_gpus
from pascaline.hardware.torch_builds import Card
from pascaline.kernels.cuda.bound_launch import BoundLaunch
from pascaline.kernels.cuda.compiler import FOLDER
from pascaline.kernels.cuda.compiler_choice import Surroundings, choose_compiler, describe
from pascaline.kernels.cuda.cubin_cache import CubinCache
from pascaline.kernels.cuda.cubins import Cubins
from pascaline.kernels.cuda.recipe import Described, Recipe
from pascaline.kernels.cuda.scratch_memory import ScratchMemory
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan, Specialisation

_OVERLAPS_IN_GRAPHS = 12030
"""Drivers from here on (12.3) keep in a graph that launches may overlap."""
_MULTIPROCESSORS, _MOST_SHARED_BYTES = 16, 97  # CUdevice_attribute; the second is what may be opted in to


class KernelSet:
    """Kernels on the card that torch calls `device`, in the context that torch uses there.

    Not thread-safe: an engine has one.
    """

    def __init__(self, device: torch.device, folder: Path = FOLDER) -> None:
        """Find a compiler for the card; `folder` has the sources.

        Raises
        ------
        UnsupportedError : there is none; says what to install.
        CudaError : the driver does not answer.
        """
        # Has torch make its context: modules live in it, and would be gone with one that only we held.
        torch.cuda.synchronize(device)
        self.device = device
        self.ordinal = _ordinal(device)
        """As torch counts cards."""
        self._device = Device(self.ordinal)
        self._here = surroundings(device)
        self.limits = ChipLimits(
            compute_capability=self._here.card.capability,
            multiprocessors=self._device.attribute(_MULTIPROCESSORS),
            shared_bytes_per_block=self._device.attribute(_MOST_SHARED_BYTES),
        )
        """What plans of launches on this card depend on."""
        self._overlaps = self.limits.overlaps_launches and driver_version() >= _OVERLAPS_IN_GRAPHS
        compiler = choose_compiler(self._here, folder)
        self._compiled_by = compiler.nvrtc.identity
        self._cubins = Cubins(compiler, CubinCache(cache_dir() / "cubins"))
        self._scratch = ScratchMemory(device)
        self._modules: dict[str, Module] = {}
        self._functions: dict[Specialisation, Function] = {}

    @property
    def notes(self) -> list[str]:
        """What went otherwise than it should, for the user."""
        return self._cubins.notes

    def build(self, specialisations: Iterable[Specialisation], report: ProgressCallback) -> None:
        """Compile what was never compiled on this machine, and load all: before steps run or are captured.

        Raises
        ------
        CompileError : one does not compile.
        CudaError : one does not load.
        """
        wanted = tuple(specialisations)
        self._cubins.build(wanted, report)
        for each in wanted:
            self.function(each)

    def function(self, specialisation: Specialisation) -> Function:
        """The kernel, loaded; compiled now if `build` did not.

        Raises
        ------
        CompileError, CudaError : as `build`.
        """
        found = self._functions.get(specialisation)
        if found is None:
            found = self._functions[specialisation] = self._load(specialisation)
        return found

    def bind(self, plan: LaunchPlan, addresses: Mapping[str, int | None]) -> BoundLaunch:
        """A launch of `plan`; `addresses` has its buffers but scratch, None for one that is absent.

        Raises
        ------
        CompileError, CudaError : as `build`, or the card does not do launches of this size.
        ShapeError : a buffer has no address.
        """
        function = self.function(plan.specialisation)
        with self._device:
            return BoundLaunch(
                function,
                plan,
                {**addresses, **self._scratch.addresses(plan)},
                begins_early=plan.begins_early and self._overlaps,
            )

    def reserve(self, recipes: Iterable[Recipe]) -> None:
        """Set apart the memory that launches of `recipes` need beside their operands; see `ScratchMemory`."""
        self._scratch.reserve(recipes)

    def handed_on(self, described: Mapping[str, Described]) -> dict[str, torch.Tensor]:
        """Memory that one launch writes for the next; see `ScratchMemory.handed_on`."""
        return self._scratch.handed_on(described)

    def _load(self, specialisation: Specialisation) -> Function:
        key, cubin = self._cubins.key(specialisation), self._cubins.cubin(specialisation)
        try:
            with self._device:
                if key not in self._modules:
                    self._modules[key] = Module(cubin)
                return self._modules[key].function(specialisation.entry)
        except CudaError as error:
            raise CudaError(
                f"{specialisation.entry} of {self._compiled_by} does not load on {describe(self._here)}: "
                f"{error.seen}",
                code=error.code,
                remedy="`pascaline doctor` compiles and runs a small kernel, and says what is wrong",
            ) from None


def _ordinal(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def surroundings(device: torch.device) -> Surroundings:
    """Of the card that torch calls `device`."""
    properties = torch.cuda.get_device_properties(device)
    return Surroundings(
        card=Card(properties.name, (properties.major, properties.minor)),
        driver=installed_gpus().driver,
        torch=str(torch.__version__),
        torch_architectures=torch.cuda.get_arch_list(),
    )
