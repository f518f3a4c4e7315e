"""attention_decode.cu: attention of sequences with one new token, or a few, by tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.specialisation import (
    ChipLimits,
    Integer,
    LaunchPlan,
    Specialisation,
    parts_scratch,
)

CAPABILITY = (8, 0)
"""The first chips with all instructions that are used."""
MOST_ROWS = 8
"""New tokens of a sequence that may be computed as in decoding: they read its pages several times."""
_TILE_ROWS = 8
_HEAD_DIM_UNIT, _STRIDE_UNIT = 16, 4
_RESERVED_BYTES = 1 << 10
"""Of shared memory, a block."""
_MOST_BYTES_ON_THEIR_WAY = 192 << 10
"""More than any multiprocessor's share of its memory's rate times the time that a read takes."""


@dataclass(frozen=True)
class AttentionDecodeGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    warps : of a block.
    stages : steps that a warp has on their way.
    step_pages : pages of keys and of values that it takes at a time.
    blocks : a multiprocessor.
    least_pages : a warp; shorter runs of pages are not worth bringing their sums together.
    """

    warps: int
    stages: int
    step_pages: int = 1
    blocks: int = 1
    least_pages: int = 2


def plan_attention_decode(
    call: AttentionCall,
    chip: ChipLimits,
    geometry: AttentionDecodeGeometry | None = None,
    *,
    most_rows: int = 1,
) -> LaunchPlan:
    """A launch for the sequences of `call` with 1 to `most_rows` new tokens; it does nothing for others.

    Raises
    ------
    UnsupportedError : the chip lacks the instructions, keys and values are fp32, heads are no multiples of
        16 numbers, or queries do not begin at multiples of 16 bytes.
    """
    refusal = _refusal(call, chip)
    if refusal is not None:
        raise UnsupportedError(refusal)
    geometry = geometry or _default_geometry(call, chip)
    tiles = call.sequences * call.key_value_heads * -(-most_rows * call.group // _TILE_ROWS)
    least_pages = geometry.least_pages * geometry.warps
    blocks = min(
        chip.multiprocessors * geometry.blocks, tiles * -(-_most_pages(call, most_rows) // least_pages)
    )
    matrix_dtype = torch.bfloat16 if call.cache_dtype == torch.bfloat16 else torch.float16
    return LaunchPlan(
        Specialisation(
            "attention_decode.cu",
            "attention_decode",
            (
                *call.definitions,
                ("MATRIX_TYPE", NUMBER_TYPES[matrix_dtype]),
                ("MOST_ROWS", most_rows),
                ("WARPS", geometry.warps),
                ("STAGES", geometry.stages),
                ("STEP_PAGES", geometry.step_pages),
                ("MIN_BLOCKS", geometry.blocks),
            ),
        ),
        grid=(blocks, 1, 1),
        block=(32 * geometry.warps, 1, 1),
        arguments=(
            *call.arguments,
            "partials",
            "arrivals",
            Integer(least_pages),
            Integer(_sums_bytes(call, geometry, blocks)),
        ),
        shared_bytes=_shared_bytes(call, geometry, blocks),
        scratch=parts_scratch(2 * blocks * _TILE_ROWS * (call.head_dim + 2) * 4, tiles),
        geometry=geometry,
        begins_early=True,
    )


def candidates_attention_decode(
    call: AttentionCall, chip: ChipLimits, *, most_rows: int = 1
) -> list[LaunchPlan]:
    """What is worth measuring, the default first."""
    geometries = [_default_geometry(call, chip), *_possible(call, chip)]
    return [
        plan_attention_decode(call, chip, each, most_rows=most_rows) for each in dict.fromkeys(geometries)
    ]


def _refusal(call: AttentionCall, chip: ChipLimits) -> str | None:
    if chip.compute_capability < CAPABILITY:
        return f"attention by tensor cores on {chip.architecture}"
    if call.cache_dtype == torch.float32:
        return "attention by tensor cores over keys and values of fp32"
    if call.head_dim % _HEAD_DIM_UNIT or call.query_stride % _STRIDE_UNIT:
        return f"heads of {call.head_dim} numbers, queries {call.query_stride} apart"
    return None


def _most_pages(call: AttentionCall, most_rows: int) -> int:
    """That the rows of a sequence see."""
    if not call.window:
        return call.table_width
    return min(call.table_width, (call.window + most_rows - 2) // PAGE_SIZE + 2)


def _page_bytes(call: AttentionCall) -> int:
    """Keys and values of a head, with their scales."""
    is_int8 = call.cache_dtype == torch.int8
    return 2 * PAGE_SIZE * (call.head_dim * call.cache_dtype.itemsize + (4 if is_int8 else 0))


def _sums_bytes(call: AttentionCall, geometry: AttentionDecodeGeometry, blocks: int) -> int:
    """Of all warps; in their place two numbers a row of all blocks that may share a tile."""
    sums = geometry.warps * _TILE_ROWS * (call.head_dim + 4 + 2) * 4
    return max(sums, 2 * 4 * _TILE_ROWS * blocks)


def _stream_bytes(call: AttentionCall, geometry: AttentionDecodeGeometry) -> int:
    """Pages on their way to a block."""
    return geometry.warps * geometry.stages * geometry.step_pages * _page_bytes(call)


def _shared_bytes(call: AttentionCall, geometry: AttentionDecodeGeometry, blocks: int) -> int:
    """Numbers of each sequence, sums, pages on their way."""
    numbers = -(-4 * (5 * call.sequences + 2) // 16) * 16
    return numbers + _sums_bytes(call, geometry, blocks) + _stream_bytes(call, geometry)


def _fits(call: AttentionCall, chip: ChipLimits, geometry: AttentionDecodeGeometry) -> bool:
    available = (chip.shared_bytes_per_block + _RESERVED_BYTES) // geometry.blocks - _RESERVED_BYTES
    return _shared_bytes(call, geometry, chip.multiprocessors * geometry.blocks) <= available


def _possible(call: AttentionCall, chip: ChipLimits) -> Iterator[AttentionDecodeGeometry]:
    for blocks, warps, step_pages, stages in product((1, 2, 3), (4, 6, 8, 10, 12), (1, 2), (2, 3, 4)):
        each = AttentionDecodeGeometry(warps, stages, step_pages, blocks)
        if blocks * warps <= 16 and _fits(call, chip, each):
            yield each


def _default_geometry(call: AttentionCall, chip: ChipLimits) -> AttentionDecodeGeometry:
    """As many bytes on their way as there is room for, of 8 warps or of what has two stages."""
    for warps in (8, 4, 2, 1):
        for stages in (4, 3, 2):
            each = AttentionDecodeGeometry(warps, stages)
            if _stream_bytes(call, each) <= _MOST_BYTES_ON_THEIR_WAY and _fits(call, chip, each):
                return each
    return AttentionDecodeGeometry(1, 1)
