"""Q5_0: 32 elements in 22 bytes: d (fp16), the codes' fifth bits, their lower four; w = d · (q − 16).

Source: the ggml format definition (block_q5_0).
"""

from __future__ import annotations

import numpy

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("d", "<f2"), ("high", "u1", 4), ("codes", "u1", 16)])


def pack(blocks: Blocks) -> Packed:
    q = Codes(blocks.columns, (Plane(4, 32, blocks.raw("codes")), Plane(1, 8, blocks.raw("high"))))
    return Packed(q, 32, 32, blocks.halves("d"), zero=16)


Q5_0 = block_format("Q5_0", 32, BLOCK, pack)
