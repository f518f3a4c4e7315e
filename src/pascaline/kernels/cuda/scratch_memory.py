"""Memory that launches need beside their operands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch

from pascaline.core.errors import CudaError
from pascaline.kernels.cuda.specialisation import LaunchPlan

_ALIGNMENT_BYTES = 256

Use = Literal["scratch", "zeros", "handed on"]


class ScratchMemory:
    """One for all launches of a stream, which run one after the other and so may use the same bytes.

    Memory once given out stays: launches that were bound to it, and graphs that have recorded them, keep
    its addresses.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[Use, list[torch.Tensor]] = {"scratch": [], "zeros": [], "handed on": []}

    @property
    def nbytes(self) -> int:
        """All that was ever given out."""
        return sum(buffer.nbytes for buffers in self._buffers.values() for buffer in buffers)

    def addresses(self, plan: LaunchPlan) -> dict[str, int]:
        """Where the scratch buffers of a launch lie, beside each other.

        Raises
        ------
        CudaError : more memory is needed while a CUDA graph is captured.
        """
        found: dict[str, int] = {}
        uses: tuple[tuple[Use, bool], ...] = (("scratch", False), ("zeros", True))
        for use, is_zeroed in uses:
            sizes = {
                name: scratch.nbytes
                for name, scratch in plan.scratch.items()
                if scratch.is_zeroed == is_zeroed
            }
            found |= {name: part.data_ptr() for name, part in self._beside(use, sizes).items()}
        return found

    def handed_on(
        self, described: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    ) -> dict[str, torch.Tensor]:
        """Tensors that one launch writes for the next: others use their bytes after those.

        Raises
        ------
        CudaError : as `addresses`.
        """
        sizes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in described.items()}
        parts = self._beside("handed on", sizes)
        return {name: parts[name].view(dtype).view(shape) for name, (shape, dtype) in described.items()}

    def _beside(self, use: Use, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Bytes by their names, none of them shared."""
        if not sizes:
            return {}
        strides = {name: -(-nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES for name, nbytes in sizes.items()}
        whole = self._at_least(use, sum(strides.values()))
        parts = torch.split(whole[: sum(strides.values())], list(strides.values()))
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
