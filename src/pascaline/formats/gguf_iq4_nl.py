"""IQ4_NL: 32 elements in 18 bytes: d (fp16) and 4-bit codes; w = d · table[q].

Source: the ggml format definition (block_iq4_nl).
"""

from __future__ import annotations

import numpy

from pascaline.formats.gguf_blocks import VALUES_IQ4, Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("d", "<f2"), ("codes", "u1", 16)])


def pack(blocks: Blocks) -> Packed:
    q = Codes(blocks.columns, (Plane(4, 32, blocks.raw("codes")),))
    return Packed(q, 32, 32, blocks.halves("d"), table=VALUES_IQ4)


IQ4_NL = block_format("IQ4_NL", 32, BLOCK, pack)
