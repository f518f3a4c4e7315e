"""How a comparison is said, on a terminal and on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pascaline.report.numbers import seconds

if TYPE_CHECKING:
    from pascaline.report.compare import Side


def side_words(side: Side) -> str:
    """ "record.json: Tesla P40, Qwen2.5-7B, 2048 tokens, 134.8 s"."""
    parts = [
        side.gpu or "chip not recorded",
        *([side.model] if side.model else []),
        f"{side.tokens} tokens" if side.tokens else "tokens not recorded",
        *([seconds(side.total_s)] if side.total_s is not None else []),
    ]
    return f"{side.path}: {', '.join(parts)}"
