"""GPTQ's tensors, read. What they are and where is in `workload.schemes.gptq`.

w[n, k] = scale[g, n] · (q[k, n] − zero[g, n]), g = g_idx[k]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pascaline.formats.destination import Destination
from pascaline.formats.linears import LinearTensors
from pascaline.formats.word_packing import unpack_rows


class GptqTensors(LinearTensors):
    def write_codes(self, planes: Sequence[torch.Tensor], to: Destination) -> None:
        words, bits = self.tensor(self.stored.words, to), self.stored.bits
        if self.order is None and bits != 3:
            # No field crosses a word: whole words change places, and nothing is unpacked.
            planes[0].view(torch.int32).copy_(words.t())
        else:
            self.write_in_order(lambda outputs: unpack_rows(words[:, outputs], bits), planes, to)

    def scales(self, to: Destination) -> torch.Tensor:
        return self.tensor(self.stored.scales, to).t()

    def zeros(self, to: Destination) -> torch.Tensor:
        return unpack_rows(self.zero_tensor(to).t().contiguous(), self.stored.bits)
