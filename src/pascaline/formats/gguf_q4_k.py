"""Q4_K: 256 elements in 144 bytes: d, dmin (fp16), a and b of 8 groups (6 bits each), 4-bit codes;
w = d · a · q − dmin · b.

Source: the ggml format definition (block_q4_K).
"""

from __future__ import annotations

import numpy

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.formats.gguf_six_bit_scales import group_codes
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("codes", "u1", 128)])


def pack(blocks: Blocks) -> Packed:
    a, b = group_codes(blocks)
    return Packed(
        Codes(blocks.columns, (Plane(4, 64, blocks.raw("codes")),)),
        group_size=32,
        super_size=256,
        scales=blocks.halves("d"),
        offsets=blocks.halves("dmin"),
        group_scales=a,
        group_offsets=b,
    )


Q4_K = block_format("Q4_K", 256, BLOCK, pack, changed=("scales",))
