"""The 6-bit a and b of Q4_K's and Q5_K's eight groups, which share 12 bytes.

Bytes 0…3 hold a of the first four groups, bytes 4…7 their b, in the lower six bits; bytes 8…11 the
lower four bits of a and, in the upper half, of b of the last four groups, whose upper two bits are
the upper two of bytes 0…3 and 4…7. Source: the ggml format definition (get_scale_min_k4).
"""

from __future__ import annotations

from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from pascaline.formats.gguf_blocks import Blocks
from pascaline.weights.codes import Codes, Plane

Words = NDArray[numpy.unsignedinteger[Any] | numpy.signedinteger[Any]]
_GROUPS = 8
_LOW_6 = numpy.uint32(0x3F3F3F3F)
_LOW_4 = numpy.uint32(0x0F0F0F0F)
_LOW_2 = numpy.uint32(0x03030303)
_UPPER_2_AS_BITS_4_5 = numpy.uint32(0x30303030)


def group_codes(blocks: Blocks) -> tuple[Codes, Codes]:
    """a and b, each in a plane of four and one of two bits, runs of 8: as many bytes as in the file."""
    words = blocks.field("scales").view("<u4")
    a, b, shared = words[:, 0::3], words[:, 1::3], words[:, 2::3]
    a_last = (shared & _LOW_4) | ((a >> 2) & _UPPER_2_AS_BITS_4_5)
    b_last = ((shared >> 4) & _LOW_4) | ((b >> 2) & _UPPER_2_AS_BITS_4_5)
    return _pack(a & _LOW_6, a_last), _pack(b & _LOW_6, b_last)


def _pack(first: Words, last: Words) -> Codes:
    """Four groups a word, one a byte, (N, blocks a row) twice -> codes of all groups."""
    groups = first.shape[1] * _GROUPS
    low = (first & _LOW_4) | ((last & _LOW_4) << 4)
    # Two bits of groups 0…3 in bytes 0…3 and of 4…7 above them; then bytes 2, 3 join bytes 0, 1.
    high = ((first >> 4) & _LOW_2) | (last & ~_LOW_4)
    high = (high | (high >> 14)).astype("<u2")
    return Codes(
        groups,
        tuple(
            Plane(bits, _GROUPS, torch.from_numpy(plane.view(numpy.uint8)))
            for bits, plane in ((4, low), (2, high))
        ),
    )
