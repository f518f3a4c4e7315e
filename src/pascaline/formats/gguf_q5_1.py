"""Q5_1: 32 elements in 24 bytes: d, m (fp16), the codes' fifth bits, their lower four; w = d · q + m.

Source: the ggml format definition (block_q5_1).
"""

from __future__ import annotations

import numpy

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("d", "<f2"), ("m", "<f2"), ("high", "u1", 4), ("codes", "u1", 16)])


def pack(blocks: Blocks) -> Packed:
    q = Codes(blocks.columns, (Plane(4, 32, blocks.raw("codes")), Plane(1, 8, blocks.raw("high"))))
    return Packed(q, 32, 32, blocks.halves("d"), offsets=blocks.halves("m").neg_())


Q5_1 = block_format("Q5_1", 32, BLOCK, pack)
