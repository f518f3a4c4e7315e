"""Launches of attention_simt_decode.cu: attention of one new token a sequence, without tensor cores."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan, Specialisation, parts_scratch

MOST_HEADS = 8
"""Query heads that a block takes at once."""

_MOST_HEAD_DIM = 256
_VECTOR = 8
_TILE = 2 * PAGE_SIZE
_WARPS = 4
_HEADS_OF_THREE_BLOCKS = 6
"""For so many heads at once a third of a multiprocessor's registers do; caches of fp32 take more."""


@dataclass(frozen=True)
class SimtDecodeGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    splits : of a sequence's tokens, at most.
    warps : of a block.
    blocks : that a multiprocessor's registers have to do for.
    """

    splits: int
    warps: int
    blocks: int


def refuse_head_dim(call: AttentionCall) -> None:
    """Raise for heads that the kernels without tensor cores do not take."""
    if call.head_dim % _VECTOR or call.head_dim > _MOST_HEAD_DIM:
        raise UnsupportedError(
            f"attention heads of {call.head_dim}", expected=f"a multiple of {_VECTOR} up to {_MOST_HEAD_DIM}"
        )


def plan_attention_simt_decode(
    call: AttentionCall, chip: ChipLimits, geometry: SimtDecodeGeometry | None = None
) -> LaunchPlan:
    """A launch for those sequences that have exactly one new token; it leaves others alone.

    Buffers: `AttentionCall`'s. Runs on every chip.

    Raises
    ------
    UnsupportedError : heads are no multiple of 8 numbers, or of more than 256.
    """
    refuse_head_dim(call)
    row_tiles, heads = _heads(call)
    geometry = geometry or _default_geometry(call, chip)
    places = call.key_value_heads * row_tiles * call.sequences
    part_floats = heads * call.head_dim + -(-2 * heads // 4) * 4
    return LaunchPlan(
        Specialisation(
            "attention_simt_decode.cu",
            "attention_simt_decode",
            (*call.definitions, ("WARPS", geometry.warps), ("MIN_BLOCKS", geometry.blocks)),
        ),
        grid=(geometry.splits, call.key_value_heads * row_tiles, call.sequences),
        block=(32 * geometry.warps, 1, 1),
        arguments=(*call.arguments, "partials", "arrivals"),
        scratch=parts_scratch(4 * part_floats * places * geometry.splits, places),
        geometry=geometry,
        begins_early=True,
    )


def _heads(call: AttentionCall) -> tuple[int, int]:
    """How many blocks share a key/value head's query heads, and how many of these one has."""
    row_tiles = -(-call.group // MOST_HEADS)
    return row_tiles, -(-call.group // row_tiles)


def _default_geometry(call: AttentionCall, chip: ChipLimits) -> SimtDecodeGeometry:
    """As many splits as blocks are at work at once, if the longest context has tiles for all their warps."""
    row_tiles, heads = _heads(call)
    has_room = heads <= _HEADS_OF_THREE_BLOCKS and call.cache_dtype != torch.float32
    blocks = 3 if has_room else 2
    wanted = -(-chip.multiprocessors * blocks // (call.key_value_heads * row_tiles * call.sequences))
    useful = -(-call.table_width * PAGE_SIZE // (_TILE * _WARPS))
    return SimtDecodeGeometry(min(wanted, useful), _WARPS, blocks)
