"""Which rows of two records are of the same module, whatever their engines call it.

Layers are matched by their index, linears that one engine merges with the parts that the other keeps, and
attention with itself, whether it is a module of its own or what its block does beside its linears.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pascaline.report.module_names import LINEAR_PARTS, MODULE, UNPLACED, place_of, sibling_pattern
from pascaline.report.module_tree import leaves
from pascaline.report.run_record import Phase, RecordedDecision, RecordedKernel, Row, RunRecord

_MEAN = -1
"""In place of a layer's index: the mean over the layers."""


@dataclass(frozen=True)
class Key:
    """What two rows must share. `op` is "" for what a module computes, else that of a container or copy."""

    stack: str
    layer: int | None
    name: str
    op: str
    phase: Phase | None


@dataclass(frozen=True)
class Part:
    """The rows of one record under one key: `seconds` in all of them, or in the mean layer."""

    module: str
    op: str
    seconds: float
    kernels: tuple[RecordedKernel, ...]
    decision: RecordedDecision | None


@dataclass(frozen=True)
class Pair:
    """A module in both records. `pattern` stands for it in all layers."""

    module: str
    pattern: str
    op: str
    phase: Phase | None
    a: Part
    b: Part


@dataclass(frozen=True)
class Aligned:
    """The pairs, containers apart, and the modules that only one record has."""

    leaves: tuple[Pair, ...]
    containers: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    layers: tuple[int, ...]
    is_mean: bool


def seconds_of(row: Row) -> float | None:
    """The measured time, or the predicted one of a row that was not run."""
    return row.predicted_s if row.measured_s is None else row.measured_s


def align(a: RunRecord, b: RunRecord) -> Aligned:
    """Match the rows of two records."""
    keep_phases = all(any(row.phase for row in record.rows) for record in (a, b))
    sides = [_parts(record.rows, keep_phases) for record in (a, b)]
    found = [{key.layer for key in side if key.layer is not None} for side in sides]
    common = found[0] & found[1]
    is_mean = bool(found[0] and found[1] and not common)
    if is_mean:
        sides = [_mean_over_layers(side) for side in sides]
        common = {_MEAN}
    elif found[0] and found[1]:
        sides = [
            {key: part for key, part in side.items() if key.layer is None or key.layer in common}
            for side in sides
        ]
    first, second = sides
    _merge_parts(first, second)
    _merge_parts(second, first)
    pairs = [
        Pair(
            module=sibling_pattern(part.module) if is_mean else part.module,
            pattern=sibling_pattern(part.module),
            op=part.op,
            phase=key.phase,
            a=part,
            b=second[key],
        )
        for key, part in first.items()
        if key in second
    ]
    return Aligned(
        leaves=tuple(pair for pair in pairs if pair.op != MODULE),
        containers=tuple(pair for pair in pairs if pair.op == MODULE),
        only_a=_alone(first, second),
        only_b=_alone(second, first),
        layers=() if is_mean else tuple(sorted(common)),
        is_mean=is_mean,
    )


def kernel_seconds(record: RunRecord) -> dict[str, float]:
    """The time of each kernel in all modules."""
    found: dict[str, float] = defaultdict(float)
    for row in leaves(record):
        for kernel in row.kernels:
            if kernel.s is not None:
                found[kernel.name] += kernel.s
    return dict(found)


def _alone(side: Mapping[Key, Part], other: Mapping[Key, Part]) -> tuple[str, ...]:
    names = (sibling_pattern(part.module) for key, part in side.items() if key not in other and not key.op)
    return tuple(dict.fromkeys(name for name in names if name))


def _key(row: Row, keep_phases: bool) -> Key:
    place = place_of(row.module)
    name = place.name
    if row.op == "paged_attention":
        name = name.removesuffix(".attn")
    op = row.op if row.op == MODULE or row.op in UNPLACED else ""
    return Key(place.stack, place.layer, name, op, row.phase if keep_phases else None)


def _parts(rows: Iterable[Row], keep_phases: bool) -> dict[Key, Part]:
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        if seconds_of(row) is not None:
            found[_key(row, keep_phases)].append(row)
    return {key: _sum(group) for key, group in found.items()}


def _sum(rows: list[Row]) -> Part:
    """Rows of one key as one; the first names it."""
    return Part(
        module=rows[0].module,
        op=rows[0].op,
        seconds=sum(seconds_of(row) or 0.0 for row in rows),
        kernels=tuple(kernel for row in rows for kernel in row.kernels),
        decision=next((row.decision for row in rows if row.decision is not None), None),
    )


def _mean_over_layers(parts: Mapping[Key, Part]) -> dict[Key, Part]:
    found: dict[Key, list[Part]] = defaultdict(list)
    for key, part in parts.items():
        layer = None if key.layer is None else _MEAN
        found[replace(key, layer=layer)].append(part)
    return {
        key: Part(
            module=group[0].module,
            op=group[0].op,
            seconds=sum(part.seconds for part in group) / len(group),
            kernels=tuple(kernel for part in group for kernel in part.kernels),
            decision=group[0].decision,
        )
        for key, group in found.items()
    }


def _merge_parts(side: dict[Key, Part], other: Mapping[Key, Part]) -> None:
    """Where `other` has a merged linear and `side` its parts, let `side` have it merged."""
    for key, merged in other.items():
        prefix, _, name = key.name.rpartition(".")
        if key in side or key.op or name not in LINEAR_PARTS:
            continue
        names = (f"{prefix}.{part}".removeprefix(".") for part in LINEAR_PARTS[name])
        keys = [replace(key, name=part) for part in names]
        if all(part in side for part in keys):
            parts = [side.pop(part) for part in keys]
            side[key] = Part(
                module=f"{parts[0].module.rpartition('.')[0]}.{name}".removeprefix("."),
                op=merged.op,
                seconds=sum(part.seconds for part in parts),
                kernels=tuple(kernel for part in parts for kernel in part.kernels),
                decision=parts[0].decision,
            )
