"""Q4_1: 32 elements in 20 bytes: d, m (fp16), then 16 bytes of 4-bit codes; w = d · q + m.

Source: the ggml format definition (block_q4_1).
"""

from __future__ import annotations

from pascaline.formats.format import Format
from pascaline.formats.gguf_blocks import as_blocks, half_floats, sequential_nibbles
from pascaline.weights import Packed

BLOCK_BYTES = 20


def load(data: memoryview, shape: tuple[int, ...]) -> Packed:
    rows, columns, blocks = as_blocks(data, shape, BLOCK_BYTES)
    offsets = -half_floats(blocks, 2)
    return Packed((rows, columns), 4, 32, 0, sequential_nibbles(blocks, 4), half_floats(blocks, 0), offsets)


Q4_1 = Format("Q4_1", load, lambda columns: columns // 32 * BLOCK_BYTES)
