"""A recorded step on a card: its launches, some of them fused, with what they compute in one memory."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch

from pascaline.kernels.cuda.fusion import fuse
from pascaline.kernels.kernel import Chip
from pascaline.kernels.recording import Operand, RecordedLaunch, memory_of, storage_of
from pascaline.workload.arena import Span


class CardProgram:
    """Launches that have no memory yet, for few new tokens a sequence (see `fuse`).

    Programs that run one after the other may share their memory.

    Parameters
    ----------
    result : the output of the last launch, on the meta device.
    """

    def __init__(self, launches: list[RecordedLaunch], result: torch.Tensor, chip: Chip) -> None:
        self.launches, self._result = fuse(launches, result, chip)
        """On the meta device."""
        self._places = memory_of(
            ((each.reads(), each.out) for each in self.launches), storage_of(self._result)
        )

    @property
    def nbytes(self) -> int:
        """Memory that the launches need."""
        return max(place.stop for place in self._places.values())

    def placed(self, memory: torch.Tensor) -> tuple[list[RecordedLaunch], torch.Tensor]:
        """The launches and their result, in `memory` (at least `nbytes`,) uint8."""
        launches = [
            replace(
                each,
                inputs=tuple(_placed(operand, memory, self._places) for operand in each.inputs),
                out=cast(torch.Tensor, _placed(each.out, memory, self._places)),
            )
            for each in self.launches
        ]
        return launches, cast(torch.Tensor, _placed(self._result, memory, self._places))


def _placed(operand: Operand, memory: torch.Tensor, places: dict[int, Span]) -> Operand:
    if not (isinstance(operand, torch.Tensor) and operand.is_meta):
        return operand
    start = places[storage_of(operand)].start
    whole = memory[start : start + operand.untyped_storage().nbytes()].view(operand.dtype)
    offset = whole.storage_offset() + operand.storage_offset()
    return whole.as_strided(operand.shape, operand.stride(), offset)
