"""Names of modules and kernels, as evidence lists them."""

from __future__ import annotations

from collections.abc import Iterable

from pascaline.diagnose.run import MeasuredRow

_NAMED = 6
_LONGEST_NAME = 72


def listed(names: Iterable[str]) -> str:
    """The first few names."""
    unique = list(dict.fromkeys(_short(name) for name in names))
    text = ", ".join(unique[:_NAMED])
    return f"{text} and {len(unique) - _NAMED} more" if len(unique) > _NAMED else text


def _short(name: str) -> str:
    """Templates make kernels' names endless."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def last_names(rows: Iterable[MeasuredRow]) -> str:
    """The modules' own names: "qkv_proj, o_proj"."""
    return listed(row.row.module.rpartition(".")[2] or row.row.op for row in rows)
