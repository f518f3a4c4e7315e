"""Q4_1: 32 elements in 20 bytes: d, m (fp16) and 4-bit codes; w = d · q + m.

Source: the ggml format definition (block_q4_1).
"""

from __future__ import annotations

import numpy

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("d", "<f2"), ("m", "<f2"), ("codes", "u1", 16)])


def pack(blocks: Blocks) -> Packed:
    q = Codes(blocks.columns, (Plane(4, 32, blocks.raw("codes")),))
    return Packed(q, 32, 32, blocks.halves("d"), offsets=blocks.halves("m").neg_())


Q4_1 = block_format("Q4_1", 32, BLOCK, pack)
