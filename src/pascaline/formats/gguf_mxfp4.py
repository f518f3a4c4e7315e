"""MXFP4: 32 elements in 17 bytes: an exponent e and 4-bit floats (E2M1); w = 2^(e − 128) · table[q].

The table holds twice the value of each float, so that its entries are integers.

Source: the ggml format definition (block_mxfp4); Open Compute Project, Microscaling Formats (MX) 1.0.
"""

from __future__ import annotations

import numpy
import torch

from pascaline.formats.gguf_blocks import Blocks, block_format
from pascaline.weights import Packed
from pascaline.weights.codes import Codes, Plane

TWICE_E2M1 = torch.tensor([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=torch.int8)
BLOCK = numpy.dtype([("exponent", "u1"), ("codes", "u1", 16)])


def pack(blocks: Blocks) -> Packed:
    q = Codes(blocks.columns, (Plane(4, 32, blocks.raw("codes")),))
    return Packed(q, 32, 32, blocks.raw("exponent"), table=TWICE_E2M1)


MXFP4 = block_format("MXFP4", 32, BLOCK, pack)
