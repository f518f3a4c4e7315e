"""The 6-bit a and b of Q4_K's and Q5_K's eight groups, which share 12 bytes.

Bytes 0…3 hold a of the first four groups, bytes 4…7 their b, in the lower six bits; bytes 8…11 the
lower four bits of a and, in the upper half, of b of the last four groups, whose upper two bits are
the upper two of bytes 0…3 and 4…7. Source: the ggml format definition (get_scale_min_k4).
"""

from __future__ import annotations

import torch

from pascaline.formats.destination import Memory
from pascaline.formats.gguf_blocks import Blocks
from pascaline.weights.codes import Codes, Plane

_GROUPS = 8
# PERF: so many bytes at a time stay in the cache through all operations, and calls count little.
_TILE_BYTES = 1 << 19
_LOW_6 = 0x3F3F3F3F
_LOW_4 = 0x0F0F0F0F
_LOW_2 = 0x03030303
_BITS_4_5 = 0x30303030


def group_codes(blocks: Blocks) -> tuple[Codes, Codes]:
    """a and b, each in a plane of four and one of two bits, runs of 8: as many bytes as in the file."""
    # Four groups a word, one a byte.
    words = blocks.raw("scales").view(torch.int32)
    shape = (blocks.rows, blocks.count)
    a_planes, b_planes = (
        (blocks.to.allocate(shape, torch.int32), blocks.to.allocate(shape, torch.int16)) for _ in range(2)
    )
    rows_at_once = blocks.rows
    if isinstance(blocks.to, Memory):
        rows_at_once = max(1, _TILE_BYTES // (12 * blocks.count))
    for start in range(0, blocks.rows, rows_at_once):
        tile = slice(start, start + rows_at_once)
        a, b, shared = (words[tile, part::3].contiguous() for part in range(3))
        a_last = (shared & _LOW_4) | ((a >> 2) & _BITS_4_5)
        b_last = ((shared >> 4) & _LOW_4) | ((b >> 2) & _BITS_4_5)
        for planes, first, last in ((a_planes, a & _LOW_6, a_last), (b_planes, b & _LOW_6, b_last)):
            low, high = _low_and_high(first, last)
            planes[0][tile] = low
            planes[1][tile] = high
    return _codes(*a_planes), _codes(*b_planes)


def _low_and_high(first: torch.Tensor, last: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups 0…3 and 4…7, 6 bits each -> planes of four and of two bits."""
    low = (first & _LOW_4) | ((last & _LOW_4) << 4)
    # Two bits of groups 0…3 in bytes 0…3 and of 4…7 above them; then bytes 2, 3 join bytes 0, 1.
    high = ((first >> 4) & _LOW_2) | (last & _BITS_4_5)
    return low, (high | (high >> 14)).view(torch.int16)[:, 0::2]


def _codes(low: torch.Tensor, high: torch.Tensor) -> Codes:
    planes = (Plane(bits, _GROUPS, plane.view(torch.uint8)) for bits, plane in ((4, low), (2, high)))
    return Codes(low.shape[1] * _GROUPS, tuple(planes))
