"""IQ4_XS: 256 elements in 136 bytes: d (fp16), a of 8 groups (the upper two bits, then the lower four)
and 4-bit codes; w = d · (a − 32) · table[q].

Source: the ggml format definition (block_iq4_xs).
"""

from __future__ import annotations

import numpy

from pascaline.formats.gguf_blocks import VALUES_IQ4, Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("d", "<f2"), ("scales_high", "u1", 2), ("scales", "u1", 4), ("codes", "u1", 128)])


def pack(blocks: Blocks) -> Packed:
    groups = blocks.count * 8
    return Packed(
        Codes(blocks.columns, (Plane(4, 32, blocks.raw("codes")),)),
        group_size=32,
        super_size=256,
        scales=blocks.halves("d"),
        group_scales=Codes(
            groups, (Plane(4, 2, blocks.raw("scales")), Plane(2, 4, blocks.raw("scales_high")))
        ),
        group_scale_zero=32,
        table=VALUES_IQ4,
    )


IQ4_XS = block_format("IQ4_XS", 256, BLOCK, pack)
