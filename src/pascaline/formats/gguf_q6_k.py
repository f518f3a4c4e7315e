"""Q6_K: 256 elements in 210 bytes: the codes' lower four bits, their upper two, a of 16 groups (signed
bytes), d (fp16); w = d · a · (q − 32).

Source: the ggml format definition (block_q6_K).
"""

from __future__ import annotations

import numpy
import torch

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("codes", "u1", 128), ("high", "u1", 64), ("scales", "u1", 16), ("d", "<f2")])


def pack(blocks: Blocks) -> Packed:
    groups = blocks.count * 16
    return Packed(
        Codes(blocks.columns, (Plane(4, 128, blocks.raw("codes")), Plane(2, 128, blocks.raw("high")))),
        group_size=16,
        super_size=256,
        scales=blocks.halves("d"),
        group_scales=Codes(groups, (Plane(8, 1, blocks.raw("scales").view(torch.int8)),)),
        zero=32,
    )


Q6_K = block_format("Q6_K", 256, BLOCK, pack)
