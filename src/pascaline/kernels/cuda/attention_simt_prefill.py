"""Launches of attention_simt_prefill.cu: attention of several new tokens a sequence, without tensor cores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.attention_simt_decode import refuse_head_dim
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan, Specialisation, parts_scratch

_THREADS = 128
_ROW_GROUPS = 8
_COLUMNS = 64
"""Of values that a row of a block's threads has four each of."""
_WIDE_HEAD_DIM = 128
_SPLIT_TOKENS = 2 * 4 * PAGE_SIZE
_ALIGNED = 4
"""Elements that rows of queries are a multiple of apart."""


@dataclass(frozen=True)
class SimtPrefillGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    thread_rows : pairs of a token and a head that are a thread's, 4 or 8.
    blocks : that a multiprocessor's registers have to do for.
    splits : of the tokens that rows see, at most.
    """

    thread_rows: int
    blocks: int
    splits: int

    @property
    def rows(self) -> int:
        """Of a block."""
        return self.thread_rows * _ROW_GROUPS

    def row_blocks(self, call: AttentionCall) -> int:
        """Of all sequences, at most: each may have a last one that is not full."""
        several = min(call.sequences, call.tokens // 2)
        return max(1, (call.tokens * call.group + (self.rows - 1) * several) // self.rows)


def plan_attention_simt_prefill(
    call: AttentionCall, chip: ChipLimits, geometry: SimtPrefillGeometry | None = None
) -> LaunchPlan:
    """A launch for those sequences that have more than one new token; it leaves others alone.

    Buffers: `AttentionCall`'s. Runs on every chip.

    Raises
    ------
    UnsupportedError : heads are no multiple of 8 numbers, or of more than 256; queries of tokens are not a
        multiple of 4 elements apart.
    """
    refuse_head_dim(call)
    if call.query_stride % _ALIGNED:
        raise UnsupportedError(
            f"attention of queries {call.query_stride} elements apart", expected=f"a multiple of {_ALIGNED}"
        )
    geometry = geometry or _default_geometry(call, chip)
    row_blocks = geometry.row_blocks(call)
    places = call.key_value_heads * row_blocks
    columns = -(-call.head_dim // _COLUMNS) * _COLUMNS
    part_floats = geometry.rows * (columns + 2)
    has_splits = geometry.splits > 1
    return LaunchPlan(
        Specialisation(
            "attention_simt_prefill.cu",
            "attention_simt_prefill",
            (
                *call.definitions,
                ("THREAD_ROWS", geometry.thread_rows),
                ("HAS_SPLITS", int(has_splits)),
                ("MIN_BLOCKS", geometry.blocks),
            ),
        ),
        grid=(call.key_value_heads, row_blocks, geometry.splits),
        block=(_THREADS, 1, 1),
        arguments=(*call.arguments, "partials", "arrivals"),
        scratch=parts_scratch(4 * part_floats * places * geometry.splits, places) if has_splits else {},
        geometry=geometry,
        begins_early=True,
    )


def _default_geometry(call: AttentionCall, chip: ChipLimits) -> SimtPrefillGeometry:
    """As many rows as registers have sums of weighted values for, or half as many where all rows are so few;
    and as many blocks as do without spills.

    Where rows make fewer blocks than are at work at once, tokens are split, a tile or more for each block.
    """
    is_half = call.head_dim > _WIDE_HEAD_DIM or call.tokens * call.group <= 4 * _ROW_GROUPS
    thread_rows = 4 if is_half else 8
    blocks = 2 if call.cache_dtype == torch.float32 or chip.compute_capability >= (9, 0) else 3
    whole = SimtPrefillGeometry(thread_rows, blocks, 1)
    wanted = chip.multiprocessors * blocks // (call.key_value_heads * whole.row_blocks(call))
    useful = -(-call.table_width * PAGE_SIZE // _SPLIT_TOKENS)
    return replace(whole, splits=max(1, min(wanted, useful)))
