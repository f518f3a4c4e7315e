"""Q2_K: 256 elements in 84 bytes: a and b of 16 groups (4 bits each, in one byte), 2-bit codes,
d and dmin (fp16); w = d · a · q − dmin · b.

Source: the ggml format definition (block_q2_K).
"""

from __future__ import annotations

import numpy
import torch

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

LOW_NIBBLES = 0x0F0F0F0F0F0F0F0F
BLOCK = numpy.dtype([("scales", "u1", 16), ("codes", "u1", 64), ("d", "<f2"), ("dmin", "<f2")])


def pack(blocks: Blocks) -> Packed:
    groups = blocks.count * 16
    # A block's 16 bytes are (a, b) pairs of nibbles; a and b become planes of their own, runs of 16.
    pairs = blocks.raw("scales").view(torch.int64)
    first, second = pairs[:, 0::2], pairs[:, 1::2]
    low = (first & LOW_NIBBLES) | ((second & LOW_NIBBLES) << 4)
    high = ((first >> 4) & LOW_NIBBLES) | (second & ~LOW_NIBBLES)
    a, b = (Codes(groups, (Plane(4, 16, plane.view(torch.uint8)),)) for plane in (low, high))
    return Packed(
        Codes(blocks.columns, (Plane(2, 128, blocks.raw("codes")),)),
        group_size=16,
        super_size=256,
        scales=blocks.halves("d"),
        offsets=blocks.halves("dmin"),
        group_scales=a,
        group_offsets=b,
    )


Q2_K = block_format("Q2_K", 256, BLOCK, pack, changed=("scales",))
