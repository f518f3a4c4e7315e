"""F32, F16 and BF16: kept as stored.

Source: IEEE 754 binary32 and binary16; bfloat16 is the upper half of binary32. The same three in
GGUF (little-endian) and safetensors.
"""

from __future__ import annotations

import numpy
import torch

from pascaline.formats.format import Format
from pascaline.weights import Dense


def _dense(type_name: str, dtype: torch.dtype) -> Format:
    def load(data: memoryview, shape: tuple[int, ...]) -> Dense:
        # PERF: numpy asks for large pages; 5 GB/s against 1.4 through a bytearray (EPYC, one thread).
        raw = torch.from_numpy(numpy.frombuffer(data, numpy.uint8).copy())
        return Dense(raw.view(dtype).reshape(shape))

    return Format(type_name, load, lambda columns: columns * dtype.itemsize)


F32 = _dense("F32", torch.float32)
F16 = _dense("F16", torch.float16)
BF16 = _dense("BF16", torch.bfloat16)
