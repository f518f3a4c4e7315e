"""Two records side by side: first the ratio of the work, then what is left when it is taken out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pascaline.core.errors import CheckpointError
from pascaline.report.alignment import Aligned, Pair, Part, align, kernel_seconds
from pascaline.report.infer_work import bandwidth_bound, recorded_work, weighted_median, work_ratio
from pascaline.report.module_names import UNPLACED
from pascaline.report.module_tree import total_s
from pascaline.report.numbers import seconds
from pascaline.report.run_record import Phase, RunRecord

_FACTOR = 2.0
_SHARE = 0.01
"""A module stands out when it is off by this factor and is at least this share of what was compared."""
_MOST_LISTED = 20
_CONFIG_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)


@dataclass(frozen=True)
class Side:
    """One of the two runs. `total_s` is that of all that was recorded."""

    path: str
    gpu: str | None
    model: str | None
    tokens: int | None
    total_s: float | None


@dataclass(frozen=True)
class ComparedRow:
    """A module in both: `ratio` is A's time over B's, `corrected_ratio` that for the same work."""

    module: str
    op: str
    phase: Phase | None
    a_s: float
    b_s: float
    ratio: float | None
    corrected_ratio: float | None


@dataclass(frozen=True)
class StandsOut:
    """A module, in all layers compared, that is off by more than the machines are."""

    module: str
    op: str
    slower: str
    a_s: float
    b_s: float
    ratio: float | None
    corrected_ratio: float | None
    excess_s: float
    text: str


@dataclass(frozen=True)
class Difference:
    """What modules ran, or what their code decided, on both sides."""

    modules: tuple[str, ...]
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """All that there is to say. `rows` has the worst first, containers last; ratios are A's over B's."""

    a: Side
    b: Side
    work_ratio: float | None
    work_ratio_reason: str
    total_ratio: float | None
    rows: tuple[ComparedRow, ...]
    stands_out: tuple[StandsOut, ...]
    kernels: tuple[Difference, ...]
    decisions: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(a: RunRecord, b: RunRecord, a_path: str, b_path: str) -> Comparison:
    """Compare two records of any kind.

    Raises
    ------
    CheckpointError : they have neither a module nor a kernel in common.
    """
    aligned = align(a, b)
    if not any(pair.op not in UNPLACED for pair in aligned.leaves):
        aligned = _by_kernel(a, b, a_path, b_path)
    work = work_ratio(a, b, aligned.leaves)
    sides = _side(a, a_path), _side(b, b_path)
    factor = 1.0 if work.ratio is None else work.ratio
    usual = _usual_ratio(aligned.leaves, factor)
    leaves = sorted(
        aligned.leaves, key=lambda pair: -_excess_s(pair.a.seconds, pair.b.seconds, factor * usual)
    )
    return Comparison(
        a=sides[0],
        b=sides[1],
        work_ratio=work.ratio,
        work_ratio_reason=work.reason,
        total_ratio=_ratio(sides[0].total_s or 0.0, sides[1].total_s or 0.0),
        rows=tuple(_row(pair, work.ratio) for pair in (*leaves, *aligned.containers)),
        stands_out=_standing_out(aligned.leaves, work.ratio, usual),
        kernels=_differences(aligned.leaves, _kernel_names),
        decisions=_differences(aligned.leaves, _decision),
        notes=tuple(_notes(a, b, sides, aligned, work.ratio, usual)),
    )


def _by_kernel(a: RunRecord, b: RunRecord, a_path: str, b_path: str) -> Aligned:
    """Kernels in place of modules, for records that know none."""
    first, second = kernel_seconds(a), kernel_seconds(b)
    common = [name for name in first if name in second]
    if not common:
        raise CheckpointError(
            f"{a_path} and {b_path} have no module and no kernel in common"
            f" ({_some_names(a)} in the one, {_some_names(b)} in the other)",
            expected="two runs of like models",
        )

    def part(name: str, s: float) -> Part:
        return Part(name, "kernel", s, (), None)

    pairs = tuple(
        Pair(name, name, "kernel", None, part(name, first[name]), part(name, second[name])) for name in common
    )
    alone = (tuple(set(first) - set(second)), tuple(set(second) - set(first)))
    return Aligned(pairs, (), tuple(sorted(alone[0])), tuple(sorted(alone[1])), (), is_mean=False)


def _some_names(record: RunRecord) -> str:
    names = [row.module for row in record.rows if row.module] or list(kernel_seconds(record))
    return ", ".join(name[:80] for name in names[:3]) or "nothing measured"


def _side(record: RunRecord, path: str) -> Side:
    chip = record.gpu or record.cpu
    name = record.model.get("name", record.model.get("_name_or_path"))
    return Side(
        path=path,
        gpu=None if chip is None else chip.name,
        model=name if isinstance(name, str) else None,
        tokens=recorded_work(record),
        total_s=total_s(record),
    )


def _usual_ratio(pairs: Sequence[Pair], work: float) -> float:
    """How much longer A takes for the same work where memory bounds it: what the machines differ by."""
    bound = [(pair.a.seconds / pair.b.seconds / work, weight) for pair, weight in bandwidth_bound(pairs)]
    return weighted_median(bound) if bound else 1.0


def _ratio(a_s: float, b_s: float) -> float | None:
    ratio = a_s / b_s if b_s > 0 else math.inf
    return ratio if math.isfinite(ratio) else None


def _row(pair: Pair, work: float | None) -> ComparedRow:
    ratio = _ratio(pair.a.seconds, pair.b.seconds)
    corrected = None if ratio is None or work is None else ratio / work
    return ComparedRow(pair.module, pair.op, pair.phase, pair.a.seconds, pair.b.seconds, ratio, corrected)


def _excess_s(a_s: float, b_s: float, expected_ratio: float) -> float:
    """Seconds that the slower side takes beyond what the other's time leads one to expect."""
    return max(a_s - b_s * expected_ratio, b_s - a_s / expected_ratio)


def _standing_out(pairs: Sequence[Pair], work: float | None, usual: float) -> tuple[StandsOut, ...]:
    groups: dict[tuple[str, str, Phase | None], list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[pair.pattern, pair.op, pair.phase].append(pair)
    compared = sum(pair.a.seconds for pair in pairs), sum(pair.b.seconds for pair in pairs)
    found = []
    for (pattern, op, _), group in groups.items():
        a_s, b_s = sum(pair.a.seconds for pair in group), sum(pair.b.seconds for pair in group)
        expected = (1.0 if work is None else work) * usual
        is_a = a_s > b_s * expected
        is_off = a_s > _FACTOR * b_s * expected or b_s * expected > _FACTOR * a_s
        share = a_s / compared[0] if is_a and compared[0] else b_s / compared[1] if compared[1] else 0.0
        if not is_off or share < _SHARE:
            continue
        ratio = _ratio(a_s, b_s)
        corrected = None if ratio is None or work is None else ratio / work
        module = group[0].module if len(group) == 1 else pattern
        found.append(
            StandsOut(
                module=module,
                op=op,
                slower="a" if is_a else "b",
                a_s=a_s,
                b_s=b_s,
                ratio=ratio,
                corrected_ratio=corrected,
                excess_s=_excess_s(a_s, b_s, expected),
                text=_words(module, a_s, b_s, ratio if work is None else corrected, work, usual),
            )
        )
    return tuple(sorted(found, key=lambda item: -item.excess_s))


def _words(module: str, a_s: float, b_s: float, ratio: float | None, work: float | None, usual: float) -> str:
    times = f"{module or 'whole model'}: {seconds(a_s)} in A, {seconds(b_s)} in B"
    if not ratio:
        return times
    same = "" if work in (None, 1.0) else "for the same work "
    slower, factor = ("A", ratio) if ratio > 1 else ("B", 1 / ratio)
    words = f"{times}: {same}{slower} takes {factor:.3g} times as long"
    expected = usual if ratio > 1 else 1 / usual
    return words if expected < _FACTOR else f"{words}, where {expected:.3g} times is usual"


def _kernel_names(part: Part) -> str:
    spent_s: dict[str, float] = defaultdict(float)
    for kernel in part.kernels:
        spent_s[kernel.name] += kernel.s or 0.0
    return ", ".join(sorted(spent_s, key=lambda name: (-spent_s[name], name)))


def _decision(part: Part) -> str:
    return "" if part.decision is None else f"{part.decision.choice}: {part.decision.reason}"


def _differences(pairs: Sequence[Pair], told: Callable[[Part], str]) -> tuple[Difference, ...]:
    found: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for pair in pairs:
        first, second = told(pair.a), told(pair.b)
        if first and second and first != second:
            found[first, second][pair.pattern] = None
    return tuple(Difference(tuple(names), *both) for both, names in found.items())[:_MOST_LISTED]


def _notes(
    a: RunRecord, b: RunRecord, sides: tuple[Side, Side], aligned: Aligned, work: float | None, usual: float
) -> list[str]:
    notes = []
    first, second = sides[0].total_s, sides[1].total_s
    if first and second:
        notes.append(_speed(first, second, work))
    if abs(math.log(usual)) > math.log(1.1):
        notes.append(
            f"where memory is the bound, {'A' if usual > 1 else 'B'} takes {max(usual, 1 / usual):.3g} times "
            "as long for the same work: what is off by more than twice that stands out"
        )
    if aligned.is_mean:
        notes.append("no layer is in both: means over the recorded layers are compared")
    elif len(aligned.layers) == 1:
        notes.append(f"of the layers, both recorded number {aligned.layers[0]} only")
    for name, alone in (("A", aligned.only_a), ("B", aligned.only_b)):
        if alone:
            more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
            notes.append(f"only in {name}: {', '.join(item[:100] for item in alone[:5])}{more}")
    for field in _CONFIG_FIELDS:
        values = a.model.get(field), b.model.get(field)
        if None not in values and values[0] != values[1]:
            notes.append(f"the models differ: {field} is {values[0]!s:.20} in A, {values[1]!s:.20} in B")
    return notes


def _speed(a_s: float, b_s: float, work: float | None) -> str:
    times = f"in all {seconds(a_s)} in A, {seconds(b_s)} in B"
    ratio = a_s / b_s / (work or 1.0)
    same = "" if work in (None, 1.0) else " for the same work"
    faster, factor = ("B", ratio) if ratio >= 1 else ("A", 1 / ratio)
    if round(factor, 2) == 1.0:
        return f"{times}: A and B are equally fast{same}"
    return f"{times}: {faster} is {factor:.3g} times as fast{same}"
