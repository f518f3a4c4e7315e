"""AWQ's tensors, read. What they are and where is in `workload.schemes.awq`.

w[n, k] = scale[g, n] · (q[k, n] − zero[g, n]), g = k / group_size. A word's field i, bits 4i to 4i + 3, is
output (0, 2, 4, 6, 1, 3, 5, 7)[i] of its eight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pascaline.formats.destination import Destination
from pascaline.formats.linears import LinearTensors
from pascaline.workload.schemes.awq import BITS, OUTPUTS_A_WORD

_LOW = 0x0F0F0F0F
_OUTPUT_OF_FIELD = (0, 2, 4, 6, 1, 3, 5, 7)


class AwqTensors(LinearTensors):
    def write_codes(self, planes: Sequence[torch.Tensor], to: Destination) -> None:
        words = self.tensor(self.stored.words, to)
        step = to.outputs_at_once // OUTPUTS_A_WORD
        for start in range(0, words.shape[1], step):
            tile = words[:, start : start + step]
            even, odd = tile[0::2], tile[1::2]
            # Of two neighbouring inputs, the fields 0, 2, 4, 6 and 1, 3, 5, 7 side by side in a byte each.
            pairs = ((even & _LOW) | ((odd & _LOW) << 4), ((even >> 4) & _LOW) | (odd & ~_LOW))
            outputs = planes[0].view(-1, OUTPUTS_A_WORD, planes[0].shape[1])[start : start + step]
            for first, pair in enumerate(pairs):
                # PERF: words change places before bytes do: 0.9 GB/s, 0.3 field by field (EPYC, one thread).
                fields = pair.t().contiguous().view(torch.uint8).view(*outputs.shape[::2], 4)
                for field in range(4):
                    outputs[:, _OUTPUT_OF_FIELD[2 * field + first]] = fields[..., field]

    def scales(self, to: Destination) -> torch.Tensor:
        return self.tensor(self.stored.scales, to).t()

    def zeros(self, to: Destination) -> torch.Tensor:
        return _unpack(self.zero_tensor(to)).t()


def _unpack(words: torch.Tensor) -> torch.Tensor:
    """(R, N / 8) int32 -> (R, N) uint8."""
    outputs = torch.empty((*words.shape, OUTPUTS_A_WORD), dtype=torch.uint8, device=words.device)
    for field, output in enumerate(_OUTPUT_OF_FIELD):
        outputs[..., output] = (words >> field * BITS) & 0x0F
    return outputs.flatten(1)
