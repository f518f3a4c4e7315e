"""attention_prefill.cu: attention of sequences with several new tokens over pages, by tensor cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pascaline.core.errors import UnsupportedError
from pascaline.kernels.cuda.attention_call import AttentionCall
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.linear_wgmma import WGMMA_CAPABILITY
from pascaline.kernels.cuda.specialisation import (
    ChipLimits,
    Integer,
    LaunchPlan,
    Specialisation,
    parts_scratch,
)

_MATRIX_TYPES = {
    torch.float16: torch.float16,
    torch.bfloat16: torch.bfloat16,
    torch.int8: torch.float16,
}
"""What the tensor cores multiply, by the cache's type."""
_LEAST_CAPABILITY = (8, 0)
_MOST_DIM, _DIM_STEP = 256, 16
_MOST_DIM_OF_TWO_TILES = 128
"""Up to here a warp has registers for the sums of 32 rows."""
_WARPGROUP_DIMS = (64, 128)
"""Heads whose queries and sums a warp of 16 rows has registers for."""
_SWIZZLE_BYTES = 1 << 10
"""Tiles that are swizzled begin at a multiple of that."""
_MOST_SHARES = 32
_STATIC_SHARED_BYTES = 64
_RESERVED_SHARED_BYTES = 1 << 10
"""Of each block, beside its own: a multiprocessor has so much more than the most that a block may have."""


@dataclass(frozen=True)
class PrefillGeometry:
    """How the work is cut up; the names are the source's definitions."""

    warps: int
    row_tiles: int
    tile_tokens: int
    stages: int
    min_blocks: int
    """Blocks that share a multiprocessor's registers."""
    by_warpgroups: bool = False
    """By attention_wgmma.cu; stages are of keys and values together."""

    @property
    def block_rows(self) -> int:
        """Pairs of a token and a query head."""
        return 16 * self.row_tiles * self.warps

    def shared_bytes(self, call: AttentionCall) -> int:
        """Queries, tiles of keys and values on their way, and one of codes made numbers."""
        if self.by_warpgroups:
            return self.stages * 2 * self.tile_tokens * 2 * call.head_dim + _SWIZZLE_BYTES
        row_bytes = 2 * call.head_dim + 16
        tile = self.tile_tokens * row_bytes
        if call.cache_dtype == torch.int8:
            codes = self.tile_tokens * (call.head_dim + 4)
            return self.block_rows * row_bytes + self.stages * codes + tile
        return self.block_rows * row_bytes + self.stages * tile

    def shares(self, call: AttentionCall, chip: ChipLimits) -> int:
        """Blocks that share a tile, at most: with few tiles, they go side by side through what these see."""
        together = max(self.blocks_together(call, chip), 1) * chip.multiprocessors
        blocks = self.tiles(call) * call.key_value_heads
        return max(min(together // blocks, _MOST_SHARES), 1)

    def tiles(self, call: AttentionCall) -> int:
        """Of `block_rows` rows of one key/value head, at most.

        Each sequence has one tile at most that is not full; those with tiles have two tokens or more.
        """
        most_sequences = min(call.sequences, call.tokens // 2)
        rows = call.tokens * call.group + most_sequences * (self.block_rows - 1)
        return max(rows // self.block_rows, 1)

    def share_bytes(self, call: AttentionCall) -> int:
        """Of what a block hands on: sums, and two numbers of each row in each of its four lanes."""
        return self.block_rows * 4 * (call.head_dim + 8)

    def blocks_together(self, call: AttentionCall, chip: ChipLimits) -> int:
        """Blocks that share a multiprocessor; 0: its memory is too small for one."""
        own = self.shared_bytes(call) + _STATIC_SHARED_BYTES
        if own > chip.shared_bytes_per_block:
            return 0
        capacity = chip.shared_bytes_per_block + _RESERVED_SHARED_BYTES
        return min(self.min_blocks, capacity // (own + _RESERVED_SHARED_BYTES))


def geometries(call: AttentionCall, chip: ChipLimits) -> Iterator[PrefillGeometry]:
    """Those that a chip may have, the likely fastest first."""
    row_tiles = 2 if call.head_dim <= _MOST_DIM_OF_TWO_TILES else 1
    by_warpgroups = (
        (PrefillGeometry(8, 1, 64, 2, 1, by_warpgroups=True),) if _has_warpgroups(call, chip) else ()
    )
    wide, narrow = PrefillGeometry(4, row_tiles, 32, 4, 2), PrefillGeometry(4, 1, 64, 2, 3)
    # Few rows: more tiles of half as many fill the card.
    has_few = wide.tiles(call) * call.key_value_heads < 2 * chip.multiprocessors
    for geometry in (
        *((narrow,) if has_few else ()),
        *by_warpgroups,
        wide,
        PrefillGeometry(8, row_tiles, 32, 2, 1),
        PrefillGeometry(4, row_tiles, 32, 2, 1),
        PrefillGeometry(4, 1, 32, 2, 1),
        PrefillGeometry(2, 1, 32, 2, 1),
    ):
        if geometry.blocks_together(call, chip) == geometry.min_blocks:
            yield geometry


def _has_warpgroups(call: AttentionCall, chip: ChipLimits) -> bool:
    return (
        chip.compute_capability == WGMMA_CAPABILITY
        and call.head_dim in _WARPGROUP_DIMS
        and call.cache_dtype != torch.int8
    )


def plan_attention_prefill(
    call: AttentionCall, chip: ChipLimits, geometry: PrefillGeometry | None = None
) -> LaunchPlan:
    """Attention of all sequences of two or more new tokens; the rows of others are left as they are.

    Parameters
    ----------
    geometry : the first of `geometries` where it is None.

    Raises
    ------
    UnsupportedError : the chip has no such instructions or too little shared memory, the cache is of fp32, or
        heads are no multiple of 16 or above 256.
    """
    if chip.compute_capability < _LEAST_CAPABILITY:
        raise UnsupportedError(f"attention by mma.sync on {chip.architecture}")
    if call.cache_dtype not in _MATRIX_TYPES:
        raise UnsupportedError(f"attention by tensor cores over keys of {call.cache_dtype}")
    if call.head_dim % _DIM_STEP or call.head_dim > _MOST_DIM:
        raise UnsupportedError(f"attention by tensor cores of heads of {call.head_dim}")
    if geometry is not None and geometry.by_warpgroups and not _has_warpgroups(call, chip):
        raise UnsupportedError(
            f"attention by wgmma.mma_async of heads of {call.head_dim} over keys of {call.cache_dtype} on "
            f"{chip.architecture}"
        )
    if geometry is None:
        geometry = next(geometries(call, chip), None)
    if geometry is None or not geometry.blocks_together(call, chip):
        raise UnsupportedError(
            f"attention of heads of {call.head_dim} in {chip.shared_bytes_per_block} bytes of shared memory"
        )
    definitions = (
        *call.definitions,
        ("MATRIX_TYPE", NUMBER_TYPES[_MATRIX_TYPES[call.cache_dtype]]),
        ("WARPS", geometry.warps),
        ("ROW_TILES", geometry.row_tiles),
        ("TILE_TOKENS", geometry.tile_tokens),
        ("STAGES", geometry.stages),
        ("MIN_BLOCKS", geometry.min_blocks),
    )
    tiles, shares = geometry.tiles(call) * call.key_value_heads, geometry.shares(call, chip)
    entry = "attention_wgmma" if geometry.by_warpgroups else "attention_prefill"
    return LaunchPlan(
        Specialisation(f"{entry}.cu", entry, definitions),
        grid=(tiles * shares, 1, 1),
        block=(32 * geometry.warps, 1, 1),
        arguments=(*call.arguments, "partials", "arrivals", Integer(shares)),
        shared_bytes=geometry.shared_bytes(call),
        scratch=parts_scratch(tiles * shares * geometry.share_bytes(call), tiles) if shares > 1 else {},
        geometry=geometry,
        begins_early=True,
    )
