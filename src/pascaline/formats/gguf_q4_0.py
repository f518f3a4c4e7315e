"""Q4_0: 32 elements in 18 bytes: d (fp16), then 16 bytes of 4-bit codes; w = d · (q − 8).

Source: the ggml format definition (block_q4_0).
"""

from __future__ import annotations

import numpy

from pascaline.formats.format import Format
from pascaline.formats.gguf_blocks import as_blocks, half_floats, sequential_nibbles
from pascaline.weights import Packed

BLOCK = numpy.dtype([("d", "<f2"), ("codes", "u1", 16)])


def load(data: memoryview, shape: tuple[int, ...]) -> Packed:
    rows, columns, blocks = as_blocks(data, shape, BLOCK)
    codes, scales = sequential_nibbles(blocks["codes"]), half_floats(blocks["d"])
    return Packed((rows, columns), 4, 32, 8, codes, scales, None)


Q4_0 = Format("Q4_0", load, lambda columns: columns // 32 * BLOCK.itemsize)
