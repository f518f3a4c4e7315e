"""Q8_0: 32 elements in 34 bytes: d (fp16), then 32 signed bytes; w = d · q.

Source: the ggml format definition (block_q8_0).
"""

from __future__ import annotations

import numpy
import torch

from pascaline.formats.format import Format
from pascaline.formats.gguf_blocks import as_blocks, half_floats
from pascaline.weights import Packed

BLOCK = numpy.dtype([("d", "<f2"), ("codes", "u1", 32)])


def load(data: memoryview, shape: tuple[int, ...]) -> Packed:
    rows, columns, blocks = as_blocks(data, shape, BLOCK)
    # A signed byte with its sign bit flipped is the unsigned code q + 128.
    codes = torch.from_numpy(numpy.bitwise_xor(blocks["codes"], 0x80).reshape(rows, columns))
    return Packed((rows, columns), 8, 32, 128, codes, half_floats(blocks["d"]), None)


Q8_0 = Format("Q8_0", load, lambda columns: columns // 32 * BLOCK.itemsize)
