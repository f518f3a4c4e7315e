"""What all forms of decode's attention count: rows of a tile, and pages of a sequence."""

from __future__ import annotations

from pascaline.kernels.cuda.attention_call import PAGE_SIZE, AttentionCall

TILE_ROWS = 8
"""New tokens times query heads of a key/value head, which are computed together (attention_shares.cuh)."""


def most_pages(call: AttentionCall, most_rows: int) -> int:
    """That the rows of a sequence see."""
    if not call.window:
        return call.table_width
    return min(call.table_width, (call.window + most_rows - 2) // PAGE_SIZE + 2)
