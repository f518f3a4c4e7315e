"""A record's rows as the tree that their module names span.

Times are inclusive: that of a container holds those of all below it. What a container does itself is a row
of its own, of the op that it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pascaline.report.module_names import MODULE, UNPLACED, is_layer_list, op_of, place_of
from pascaline.report.run_record import Row, RunRecord

_OWN_SHARE = 0.01
"""Less of a container than this is left over by rounding and by the time between kernels."""


def leaves(record: RunRecord) -> list[Row]:
    """The rows that are no containers: nothing is in two of them."""
    return [row for row in record.rows if row.op != MODULE]


def parent_of(module: str) -> str | None:
    """The name one step up; "" is the whole model, above which there is nothing."""
    return module.rpartition(".")[0] if module else None


def roots(record: RunRecord) -> list[Row]:
    """The rows that are in no recorded container: with their times, all that was recorded once."""
    held = {(row.module, row.phase) for row in record.rows if row.op == MODULE}

    def is_held(row: Row) -> bool:
        if row.module == "" and row.op in UNPLACED:
            return False
        module: str | None = row.module if row.op != MODULE else parent_of(row.module)
        while module is not None:
            if (module, row.phase) in held:
                return True
            module = parent_of(module)
        return False

    return [row for row in record.rows if not is_held(row)]


def total_s(record: RunRecord) -> float | None:
    """The measured time of the whole, copies included; None where nothing was measured."""
    times = [row.measured_s for row in roots(record) if row.measured_s is not None]
    return sum(times) if times else None


def tree_rows(
    times: Mapping[str, float | None], calls: Mapping[str, int], *, layers_are_complete: bool
) -> list[Row]:
    """Rows of a tree of inclusive times, in the order given.

    A module with recorded children is a container. Where its children leave more than a hundredth of its
    time, the rest is its own row, unless layers of it may be missing.
    """
    children = _children(times)
    above_layers = _above_layers(times)
    rows = []
    for module, seconds in times.items():
        count = calls.get(module, 1)
        below = children.get(module, ())
        if not below and not is_layer_list(module):
            rows.append(Row(module=module, op=op_of(module), calls=count, measured_s=seconds))
            continue
        rows.append(Row(module=module, op=MODULE, calls=count, measured_s=seconds))
        if module in above_layers and not layers_are_complete:
            continue
        own = _own_time(seconds, [times[child] for child in below])
        if own is not None:
            rows.append(Row(module=module, op=op_of(module), calls=count, measured_s=own))
    return rows


def _children(modules: Iterable[str]) -> dict[str, list[str]]:
    """The modules directly below each: those whose nearest recorded ancestor it is."""
    known = dict.fromkeys(modules)
    found: dict[str, list[str]] = defaultdict(list)
    for module in known:
        above = parent_of(module)
        while above is not None and above not in known:
            above = parent_of(above)
        if above is not None:
            found[above].append(module)
    return found


def _above_layers(modules: Iterable[str]) -> set[str]:
    """The modules that hold layers, at any depth."""
    found = set()
    for module in modules:
        place = place_of(module)
        layer = module.removesuffix(place.name).removesuffix(".")  # which need not be recorded itself
        step = parent_of(layer) if place.layer is not None else None
        while step is not None and step not in found:
            found.add(step)
            step = parent_of(step)
    return found


def _own_time(seconds: float | None, below: Sequence[float | None]) -> float | None:
    if seconds is None or not below:
        return None
    known = [time for time in below if time is not None]
    own = seconds - sum(known)
    return own if len(known) == len(below) and own > _OWN_SHARE * seconds else None
