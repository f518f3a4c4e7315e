"""Q4_0: 32 elements in 18 bytes: d (fp16), then 16 bytes of 4-bit codes; w = d · (q − 8).

Source: the ggml format definition (block_q4_0).
"""

from __future__ import annotations

from pascaline.formats.format import Format
from pascaline.formats.gguf_blocks import as_blocks, half_floats, sequential_nibbles
from pascaline.weights import Packed

BLOCK_BYTES = 18


def load(data: memoryview, shape: tuple[int, ...]) -> Packed:
    rows, columns, blocks = as_blocks(data, shape, BLOCK_BYTES)
    return Packed((rows, columns), 4, 32, 8, sequential_nibbles(blocks, 2), half_floats(blocks, 0), None)


Q4_0 = Format("Q4_0", load, lambda columns: columns // 32 * BLOCK_BYTES)
