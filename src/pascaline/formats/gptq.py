"""GPTQ's tensors, read. What they are and where is in `workload.schemes.gptq`.

w[n, k] = scale[g, n] · (q[k, n] − zero[g, n]), g = g_idx[k]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pascaline.formats.linears import LinearTensors
from pascaline.formats.word_packing import unpack_rows


class GptqTensors(LinearTensors):
    def write_codes(self, planes: Sequence[torch.Tensor]) -> None:
        words, bits = self.tensor(self.stored.words), self.stored.bits
        if self.order is None and bits != 3:
            # No field crosses a word: whole words change places, and nothing is unpacked.
            planes[0].view(torch.int32).copy_(words.t())
        else:
            self.write_in_order(lambda outputs: unpack_rows(words[:, outputs], bits), planes)

    def scales(self) -> torch.Tensor:
        return self.tensor(self.stored.scales).t()

    def zeros(self) -> torch.Tensor:
        return unpack_rows(self.zero_tensor().t().contiguous(), self.stored.bits)
