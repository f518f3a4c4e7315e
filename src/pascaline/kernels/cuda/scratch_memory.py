"""Memory that launches need beside their operands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch

from pascaline.core.errors import CudaError
from pascaline.kernels.cuda.recipe import Described, Recipe
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.workload.limits import BUFFER_ALIGNMENT_BYTES

Use = Literal["scratch", "zeros", "handed on"]

_SCRATCH_USES: tuple[tuple[Use, bool], ...] = (("scratch", False), ("zeros", True))
"""With whether a launch finds zeros there."""


class ScratchMemory:
    """One for all launches of a stream, which run one after the other and so may use the same bytes.

    Memory once given out stays: launches that were bound to it, and graphs that have recorded them, keep
    its addresses. What grows bit by bit is therefore held many times over: `reserve` has all of it at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[Use, list[torch.Tensor]] = {"scratch": [], "zeros": [], "handed on": []}

    @property
    def nbytes(self) -> int:
        """All that was ever given out."""
        return sum(buffer.nbytes for buffers in self._buffers.values() for buffer in buffers)

    def reserve(self, recipes: Iterable[Recipe]) -> None:
        """Have room for the largest of `recipes` before the first of them is bound."""
        most: dict[Use, int] = dict.fromkeys(self._buffers, 0)
        for recipe in recipes:
            most["handed on"] = max(most["handed on"], _beside_bytes(_described_bytes(recipe.handed_on)))
            for plan in recipe.plans:
                for use, sizes in _scratch_bytes(plan).items():
                    most[use] = max(most[use], _beside_bytes(sizes))
        for use, nbytes in most.items():
            if nbytes:
                self._at_least(use, nbytes)

    def addresses(self, plan: LaunchPlan) -> dict[str, int]:
        """Where the scratch buffers of a launch lie, beside each other.

        Raises
        ------
        CudaError : more memory is needed while a CUDA graph is captured.
        """
        found: dict[str, int] = {}
        for use, sizes in _scratch_bytes(plan).items():
            found |= {name: part.data_ptr() for name, part in self._beside(use, sizes).items()}
        return found

    def handed_on(self, described: Mapping[str, Described]) -> dict[str, torch.Tensor]:
        """Tensors that one launch writes for the next: others use their bytes after those.

        Raises
        ------
        CudaError : as `addresses`.
        """
        parts = self._beside("handed on", _described_bytes(described))
        return {name: parts[name].view(dtype).view(shape) for name, (shape, dtype) in described.items()}

    def _beside(self, use: Use, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Bytes by their names, none of them shared."""
        if not sizes:
            return {}
        total = _beside_bytes(sizes)
        parts = torch.split(self._at_least(use, total)[:total], [_aligned(each) for each in sizes.values()])
        return {name: part[: sizes[name]] for name, part in zip(sizes, parts, strict=True)}

    def _at_least(self, use: Use, nbytes: int) -> torch.Tensor:
        buffers = self._buffers[use]
        if not buffers or buffers[-1].nbytes < nbytes:
            if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                raise CudaError(
                    f"{nbytes} bytes of scratch memory are needed while a CUDA graph is captured",
                    expected="launches that were bound before",
                )
            make = torch.zeros if use == "zeros" else torch.empty
            buffers.append(make(max(nbytes, 1), dtype=torch.uint8, device=self._device))
        return buffers[-1]


def _scratch_bytes(plan: LaunchPlan) -> dict[Use, dict[str, int]]:
    """A launch's scratch buffers, by what they are."""
    return {
        use: {name: each.nbytes for name, each in plan.scratch.items() if each.is_zeroed == is_zeroed}
        for use, is_zeroed in _SCRATCH_USES
    }


def _described_bytes(described: Mapping[str, Described]) -> dict[str, int]:
    return {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in described.items()}


def _beside_bytes(sizes: Mapping[str, int]) -> int:
    """Of buffers that lie beside each other."""
    return sum(map(_aligned, sizes.values()))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // BUFFER_ALIGNMENT_BYTES) * BUFFER_ALIGNMENT_BYTES
