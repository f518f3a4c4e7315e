"""compressed-tensors' tensors, read. What they are and where is in `workload.schemes.compressed_tensors`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pascaline.core.errors import CheckpointError
from pascaline.formats.destination import Destination
from pascaline.formats.linears import LinearTensors
from pascaline.formats.word_packing import unpack_rows


class CompressedTensors(LinearTensors):
    def write_codes(self, planes: Sequence[torch.Tensor], to: Destination) -> None:
        words, bits = self.tensor(self.stored.words, to), self.stored.bits
        if self.order is None:
            planes[0].view(torch.int32).copy_(words)
        else:
            self.write_in_order(lambda outputs: unpack_rows(words[outputs].t(), bits), planes, to)

    def scales(self, to: Destination) -> torch.Tensor:
        return self.tensor(self.stored.scales, to)

    def zeros(self, to: Destination) -> torch.Tensor:
        bits, stored = self.stored.bits, self.zero_tensor(to)
        if stored.dtype == torch.int32:
            return unpack_rows(stored, bits)[: self.stored.rows]
        half, signed = 1 << (bits - 1), stored.short()
        if signed.min() < -half or signed.max() >= half:
            name, range_ = self.stored.zeros, f"{signed.min()} to {signed.max()}"
            raise CheckpointError(
                f"{self.checkpoint.path.name}: tensor {name!r} is {range_}",
                expected=f"{bits}-bit integers, from {-half} to {half - 1}",
            )
        return (signed + half).to(torch.uint8)
