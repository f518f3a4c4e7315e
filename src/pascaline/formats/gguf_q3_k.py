"""Q3_K: 256 elements in 110 bytes: the codes' third bits, their lower two, a of 16 groups (the lower
four bits, then the upper two), d (fp16); w = d · (a − 32) · (q − 4).

Source: the ggml format definition (block_q3_K).
"""

from __future__ import annotations

import numpy

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype(
    [
        ("high", "u1", 32),
        ("codes", "u1", 64),
        ("scales", "u1", 8),
        ("scales_high", "u1", 4),
        ("d", "<f2"),
    ]
)


def pack(blocks: Blocks) -> Packed:
    groups = blocks.count * 16
    return Packed(
        Codes(blocks.columns, (Plane(2, 128, blocks.raw("codes")), Plane(1, 256, blocks.raw("high")))),
        group_size=16,
        super_size=256,
        scales=blocks.halves("d"),
        group_scales=Codes(
            groups, (Plane(4, 16, blocks.raw("scales")), Plane(2, 16, blocks.raw("scales_high")))
        ),
        group_scale_zero=32,
        zero=4,
    )


Q3_K = block_format("Q3_K", 256, BLOCK, pack)
