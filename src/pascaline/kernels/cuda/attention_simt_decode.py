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
_BLOCKS_PER_MULTIPROCESSOR = 3
_WARPS = 4


@dataclass(frozen=True)
class SimtDecodeGeometry:
    """What may be chosen freely.

    Parameters
    ----------
    splits : of a sequence's tokens, at most; 1 to 32 · `warps`.
    warps : of a block.
    blocks : that a multiprocessor's registers have to do for.
    """

    splits: int
    warps: int = _WARPS
    blocks: int = _BLOCKS_PER_MULTIPROCESSOR


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
    geometry = geometry or _default_geometry(call, chip)
    row_tiles = -(-call.group // MOST_HEADS)
    heads = -(-call.group // row_tiles)
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


def _default_geometry(call: AttentionCall, chip: ChipLimits) -> SimtDecodeGeometry:
    """As many splits as blocks are at work at once, while each warp of them has a tile of the longest context."""
    row_tiles = -(-call.group // MOST_HEADS)
    places = call.key_value_heads * row_tiles * call.sequences
    blocks = _BLOCKS_PER_MULTIPROCESSOR if call.cache_dtype != torch.float32 else 2
    wanted = -(-chip.multiprocessors * blocks // places)
    useful = -(-call.table_width * PAGE_SIZE // (_TILE * _WARPS))
    return SimtDecodeGeometry(max(1, min(wanted, useful, _TILE * _WARPS)), _WARPS, blocks)
