"""Q4_0: 32 elements in 18 bytes: d (fp16) and 4-bit codes; w = d · (q − 8).

Source: the ggml format definition (block_q4_0).
"""

from __future__ import annotations

import numpy

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("d", "<f2"), ("codes", "u1", 16)])


def pack(blocks: Blocks) -> Packed:
    q = Codes(blocks.columns, (Plane(4, 32, blocks.raw("codes")),))
    return Packed(q, 32, 32, blocks.halves("d"), zero=8)


Q4_0 = block_format("Q4_0", 32, BLOCK, pack)
