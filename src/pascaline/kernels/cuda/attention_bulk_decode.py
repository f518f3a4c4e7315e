"""attention_bulk_decode.cu: attention of sequences with a new token, or a few; pages come by bulk copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.attention_decode_pages import TILE_ROWS, most_pages
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.specialisation import (
    ChipLimits,
    Integer,
    LaunchPlan,
    Specialisation,
    parts_scratch,
)

CAPABILITY = (9, 0)
"""The first chips that copy so."""
_HEAD_DIMS = (64, 128)
_STRIDE_UNIT = 4
_RESERVED_BYTES = 1 << 10
"""Of shared memory, a block."""
_MOST_WARPS = 8
"""Of a multiprocessor, whose registers hold their sums."""
_BARRIER_BYTES = 8
_STATIC_BYTES = 16
"""Of shared memory, that the kernel has beside barriers and what a launch asks for."""


@dataclass(frozen=True)
class BulkDecodeGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    warps : of a block.
    stages : pages of keys and of values that a warp has on their way.
    heads : of keys and values, of a block; they divide its warps.
    key_pieces, value_pieces : that a page is copied in, 1, 2 or 4: the more, the fewer conflicts of banks.
    blocks : a multiprocessor.
    waves : times as many blocks as are at work at once.
    least_pages : a warp; shorter runs of pages are never worth bringing their sums together.
    """

    warps: int
    stages: int
    heads: int = 1
    key_pieces: int = 1
    value_pieces: int = 1
    blocks: int = 1
    waves: int = 1
    least_pages: int = 1


def plan_attention_bulk_decode(
    call: AttentionCall, chip: ChipLimits, geometry: BulkDecodeGeometry, *, most_rows: int = 1
) -> LaunchPlan:
    """As `plan_attention_decode`, for caches of fp16 or bf16.

    Raises
    ------
    UnsupportedError : the chip copies otherwise, keys and values are of another type, heads are of other
        sizes, are no multiple of a block's, or queries do not begin at multiples of 16 bytes.
    """
    refusal = _refusal(call, chip, geometry)
    if refusal is not None:
        raise UnsupportedError(refusal)
    head_blocks = call.key_value_heads // geometry.heads
    tiles = call.sequences * -(-most_rows * call.group // TILE_ROWS)
    least_pages = geometry.least_pages * geometry.warps // geometry.heads
    blocks = min(
        max(1, chip.multiprocessors * geometry.blocks * geometry.waves // head_blocks),
        tiles * -(-most_pages(call, most_rows) // least_pages),
    )
    sums_bytes = _sums_bytes(
        call, geometry, min(blocks, _most_sharers(most_pages(call, most_rows), least_pages))
    )
    return LaunchPlan(
        Specialisation(
            "attention_bulk_decode.cu",
            "attention_bulk_decode",
            (
                *call.definitions,
                ("MATRIX_TYPE", NUMBER_TYPES[call.cache_dtype]),
                ("MOST_ROWS", most_rows),
                ("WARPS", geometry.warps),
                ("BLOCK_HEADS", geometry.heads),
                ("STAGES", geometry.stages),
                ("KEY_PIECES", geometry.key_pieces),
                ("VALUE_PIECES", geometry.value_pieces),
                ("MIN_BLOCKS", geometry.blocks),
            ),
        ),
        grid=(head_blocks, blocks, 1),
        block=(32 * geometry.warps, 1, 1),
        arguments=(*call.arguments, "partials", "arrivals", Integer(least_pages), Integer(sums_bytes)),
        shared_bytes=_numbers_bytes(call) + sums_bytes + geometry.warps * _stream_bytes(call, geometry),
        scratch=parts_scratch(
            2 * blocks * call.key_value_heads * TILE_ROWS * (call.head_dim + 2) * 4,
            tiles * call.key_value_heads,
        ),
        geometry=geometry,
        begins_early=True,
    )


def candidates_attention_bulk_decode(call: AttentionCall, chip: ChipLimits) -> Iterator[BulkDecodeGeometry]:
    """What fits the chip: pages of 64 KB and more on their way to a multiprocessor."""
    for blocks, warps, heads, pieces in product((1, 2), (4, 8), (1, 2, 4), ((1, 1), (2, 2), (2, 4))):
        if blocks * warps > _MOST_WARPS or warps % heads or call.key_value_heads % heads:
            continue
        for stages in range(1, 13):
            for waves in (1, 2, 4):
                each = BulkDecodeGeometry(warps, stages, heads, *pieces, blocks=blocks, waves=waves)
                if blocks * warps * _stream_bytes(call, each) >= 64 << 10 and fits(call, chip, each):
                    yield each


def fits(call: AttentionCall, chip: ChipLimits, geometry: BulkDecodeGeometry) -> bool:
    """Whether so many blocks have room in a multiprocessor's shared memory."""
    available = (chip.shared_bytes_per_block + _RESERVED_BYTES) // geometry.blocks - _RESERVED_BYTES
    static = _STATIC_BYTES + geometry.warps * geometry.stages * _BARRIER_BYTES
    return plan_attention_bulk_decode(call, chip, geometry).shared_bytes + static <= available


def _refusal(call: AttentionCall, chip: ChipLimits, geometry: BulkDecodeGeometry) -> str | None:
    if chip.compute_capability < CAPABILITY:
        return f"attention by bulk copies on {chip.architecture}"
    if call.cache_dtype not in (torch.float16, torch.bfloat16):
        return f"attention by bulk copies over keys and values of {call.cache_dtype}"
    if call.head_dim not in _HEAD_DIMS or call.query_stride % _STRIDE_UNIT:
        return f"heads of {call.head_dim} numbers, queries {call.query_stride} apart"
    if call.key_value_heads % geometry.heads or geometry.warps % geometry.heads:
        return f"{call.key_value_heads} heads by {geometry.warps} warps that have {geometry.heads}"
    return None


def _numbers_bytes(call: AttentionCall) -> int:
    """Of each sequence."""
    return -(-4 * 3 * call.sequences // 16) * 16


def _sums_bytes(call: AttentionCall, geometry: BulkDecodeGeometry, sharers: int) -> int:
    """Of all warps; in their place two numbers a row of all blocks that may share a tile."""
    sums = geometry.warps * TILE_ROWS * (call.head_dim + 4 + 2) * 4
    return max(sums, 2 * 4 * TILE_ROWS * geometry.heads * sharers)


def _most_sharers(pages: int, least_pages: int) -> int:
    """Of a tile of up to so many pages: its runs' least length grows with it (attention_shares.cuh)."""
    most, shift, reach = 0, 0, 63
    while True:
        seen = min(pages, reach)
        most = max(most, -(-seen // (least_pages << shift)) + 1)
        if seen == pages:
            return most
        shift, reach = shift + 1, 4 * reach + 3


def _stream_bytes(call: AttentionCall, geometry: BulkDecodeGeometry) -> int:
    """Pages on their way to a warp, with what lies between their pieces."""
    page = PAGE_SIZE * call.head_dim * call.cache_dtype.itemsize
    gaps = sum(128 for pieces in (geometry.key_pieces, geometry.value_pieces) if pieces > 1)
    return geometry.stages * (2 * page + gaps)
