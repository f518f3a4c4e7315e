"""Q8_0: 32 elements in 34 bytes: d (fp16) and signed bytes; w = d · q.

Source: the ggml format definition (block_q8_0).
"""

from __future__ import annotations

import numpy
import torch

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

BLOCK = numpy.dtype([("d", "<f2"), ("codes", "u1", 32)])


def pack(blocks: Blocks) -> Packed:
    q = Codes(blocks.columns, (Plane(8, 1, blocks.raw("codes").view(torch.int8)),))
    return Packed(q, 32, 32, blocks.halves("d"))


Q8_0 = block_format("Q8_0", 32, BLOCK, pack)
