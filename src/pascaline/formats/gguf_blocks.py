"""What GGUF's block formats share: a tensor as an array of blocks, nibbles in order."""

from __future__ import annotations

import numpy
import torch
from numpy.typing import NDArray

from pascaline.core.errors import CheckpointError

BLOCK_ELEMENTS = 32


def as_blocks(
    data: memoryview, shape: tuple[int, ...], block_bytes: int
) -> tuple[int, int, NDArray[numpy.uint8]]:
    """Rows N, columns K and the blocks as (N, K / 32, block_bytes) bytes, not copied."""
    if len(shape) != 2 or shape[1] % BLOCK_ELEMENTS:
        raise CheckpointError(
            f"a block-quantised tensor of shape {shape}",
            expected=f"two axes, the last a multiple of {BLOCK_ELEMENTS}",
        )
    rows, columns = shape
    blocks = numpy.frombuffer(data, dtype=numpy.uint8).reshape(rows, columns // BLOCK_ELEMENTS, block_bytes)
    return rows, columns, blocks


def half_floats(blocks: NDArray[numpy.uint8], start: int) -> torch.Tensor:
    """The fp16 at byte `start` of every block, (N, K / 32)."""
    return torch.from_numpy(numpy.ascontiguousarray(blocks[..., start : start + 2])).view(torch.float16)[
        ..., 0
    ]


def sequential_nibbles(blocks: NDArray[numpy.uint8], start: int) -> torch.Tensor:
    """The 4-bit codes of every block, reordered to the packed weight's layout, (N, K / 2) bytes.

    GGUF keeps elements 0…15 of a block in the low and 16…31 in the high halves of 16 bytes; we
    keep neighbours in one byte.
    """
    rows = blocks.shape[0]
    codes = torch.from_numpy(numpy.ascontiguousarray(blocks[..., start : start + 16]))
    halves = torch.stack((codes & 15, codes >> 4), dim=2).view(rows, -1, BLOCK_ELEMENTS)
    return (halves[..., 0::2] | (halves[..., 1::2] << 4)).view(rows, -1)
