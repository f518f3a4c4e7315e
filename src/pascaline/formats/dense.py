"""F32, F16 and BF16: kept as stored.

Source: IEEE 754 binary32 and binary16; bfloat16 is the upper half of binary32. The same three in
GGUF (little-endian) and safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pascaline.formats.destination import Destination, Memory
from pascaline.formats.format import Format, StoredRows
from pascaline.weights import Dense


def _dense(type_name: str, dtype: torch.dtype) -> Format:
    def load(parts: Sequence[StoredRows], to: Destination) -> Dense:
        if len(parts) == 1 and parts[0].interleaved_heads is None and not isinstance(to, Memory):
            return Dense(
                to.bring(parts[0].read()).view(dtype).view(parts[0].shape)
            )  # there is no second copy
        weight = to.allocate((sum(part.shape[0] for part in parts), *parts[0].shape[1:]), dtype)
        start = 0
        for part in parts:
            stored = part.arranged(to.bring(part.read()).view(dtype).view(part.shape))
            stop = start + part.shape[0]
            weight[start:stop].view(stored.shape).copy_(stored)
            start = stop
        return Dense(weight)

    return Format(type_name, load)


F32 = _dense("F32", torch.float32)
F16 = _dense("F16", torch.float16)
BF16 = _dense("BF16", torch.bfloat16)
