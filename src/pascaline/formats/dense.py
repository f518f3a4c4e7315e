"""F32, F16 and BF16: kept as stored.

Source: IEEE 754 binary32 and binary16; bfloat16 is the upper half of binary32. The same three in
GGUF (little-endian) and safetensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch

from pascaline.formats.format import Format, StoredRows
from pascaline.weights import Dense
from pascaline.weights.memory import allocate


def _dense(type_name: str, dtype: torch.dtype) -> Format:
    item = numpy.dtype(f"u{dtype.itemsize}")

    def load(parts: Sequence[StoredRows]) -> Dense:
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        items = allocate(shape, item)
        start = 0
        for part in parts:
            stored = part.arranged(numpy.frombuffer(part.read(), item).reshape(part.shape))
            stop = start + part.shape[0]
            items[start:stop].reshape(stored.shape)[...] = stored
            start = stop
        return Dense(torch.from_numpy(items.view(numpy.uint8)).view(dtype).view(shape))

    return Format(type_name, load)


F32 = _dense("F32", torch.float32)
F16 = _dense("F16", torch.float16)
BF16 = _dense("BF16", torch.bfloat16)
