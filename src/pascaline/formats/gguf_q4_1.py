"""Q4_1: 32 elements in 20 bytes: d, m (fp16), then 16 bytes of 4-bit codes; w = d · q + m.

Source: the ggml format definition (block_q4_1).
"""

from __future__ import annotations

import numpy

from pascaline.formats.format import Format
from pascaline.formats.gguf_blocks import as_blocks, half_floats, sequential_nibbles
from pascaline.weights import Packed

BLOCK = numpy.dtype([("d", "<f2"), ("m", "<f2"), ("codes", "u1", 16)])


def load(data: memoryview, shape: tuple[int, ...]) -> Packed:
    rows, columns, blocks = as_blocks(data, shape, BLOCK)
    codes, scales = sequential_nibbles(blocks["codes"]), half_floats(blocks["d"])
    return Packed((rows, columns), 4, 32, 0, codes, scales, half_floats(-blocks["m"]))


Q4_1 = Format("Q4_1", load, lambda columns: columns // 32 * BLOCK.itemsize)
