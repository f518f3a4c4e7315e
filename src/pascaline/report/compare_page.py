"""The page of `pascaline compare --html`: what stands out, and every module on both sides as bars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pascaline.report.compare import ComparedRow, Comparison, Difference
from pascaline.report.compare_words import side_words
from pascaline.report.module_names import MODULE
from pascaline.report.module_tree import parent_of
from pascaline.report.numbers import factor, seconds
from pascaline.report.page import Cell, Column, escaped, page, table, web_file

_COLUMNS = (
    Column("Module", is_number=False),
    Column("Op", is_number=False),
    Column("A", "time in A"),
    Column("B", "time in B"),
    Column("A / B", "as recorded"),
    Column("Same work", "A / B, divided by the ratio of the work"),
)
_MOST_IN_TREE = 2000
_DEEPEST = 40


def compare_page(comparison: Comparison) -> str:
    """The document."""
    capital, reason = comparison.work_ratio_reason[:1].upper(), comparison.work_ratio_reason[1:]
    body = "".join(
        (
            f"<p><b class='side-a'>A</b> {escaped(side_words(comparison.a))}<br>"
            f"<b class='side-b'>B</b> {escaped(side_words(comparison.b))}</p>",
            f"<h2>The work</h2><p>{escaped(capital + reason)}.</p>",
            "<h2>What stands out</h2>",
            _list([item.text for item in comparison.stands_out])
            or "<p>Nothing: every module is slower or faster by about the same.</p>",
            "<h2>The modules</h2><p class='fine'><b class='side-a'>A</b> above <b class='side-b'>B</b>, "
            "modules of one parent on one scale. The bars of B are drawn for the work of A: equal length is "
            "equal speed. A module's time holds that of those in it.</p>",
            _Tree(comparison).html(),
            "<h2>As a table</h2>",
            table("Modules", _COLUMNS, [_cells(row) for row in comparison.rows]),
            _differences("Kernels that differ", comparison.kernels),
            _differences("Decisions that differ", comparison.decisions),
            f"<h2>Notes</h2>{_list(comparison.notes)}" if comparison.notes else "",
        )
    )
    return page("Two runs, module by module", body, style=web_file("compare.css"))


class _Tree:
    """Modules within modules, each with two bars. A container's own work stands in it beside the others."""

    def __init__(self, comparison: Comparison) -> None:
        self._scale = 1.0 if comparison.work_ratio is None else comparison.work_ratio
        self._slow = {item.module for item in comparison.stands_out}
        rows = comparison.rows[:_MOST_IN_TREE]
        containers = {row.module for row in rows if row.op == MODULE and row.module.count(".") < _DEEPEST}
        self._below: Mapping[str | None, list[ComparedRow]] = defaultdict(list)
        for row in rows:
            above = row.module if row.op != MODULE and row.module in containers else parent_of(row.module)
            while above is not None and above not in containers:
                above = parent_of(above)
            self._below[above].append(row)
        self._containers = containers

    def html(self) -> str:
        return f"<div class='tree'>{self._level(None)}</div>"

    def _level(self, parent: str | None) -> str:
        rows = sorted(self._below.get(parent, ()), key=lambda row: -self._longest(row))
        longest = max(map(self._longest, rows), default=0.0) or 1.0
        return "".join(self._entry(row, parent, longest) for row in rows)

    def _longest(self, row: ComparedRow) -> float:
        return max(row.a_s, row.b_s * self._scale)

    def _entry(self, row: ComparedRow, parent: str | None, longest: float) -> str:
        name = row.module.removeprefix(f"{parent}.") if parent else row.module
        if row.op != MODULE and row.module in self._containers:
            name = f"itself ({row.op})"
        phase = f" <i>{escaped(row.phase)}</i>" if row.phase else ""
        ratio = row.ratio if row.corrected_ratio is None else row.corrected_ratio
        slow = " class='slow'" if row.op != MODULE and row.module in self._slow else ""
        line = (
            f"<span class='line'><span{slow} title='{escaped(row.module)}'>"
            f"{escaped(name or 'whole model')}{phase}</span>"
            f"<span class='factor'>{factor(ratio)}</span></span>"
            f"{self._bar('a', row.a_s, row.a_s / longest)}"
            f"{self._bar('b', row.b_s, row.b_s * self._scale / longest)}"
        )
        if row.op != MODULE or row.module not in self._containers:
            return f"<div class='leaf'>{line}</div>"
        is_open = " open" if len(self._below.get(parent, ())) <= 4 or parent is None else ""
        return f"<details{is_open}><summary>{line}</summary>{self._level(row.module)}</details>"

    def _bar(self, side: str, s: float, share: float) -> str:
        return (
            f"<span class='bar'><span class='{side}' style='width:{100 * share:.2f}%'></span>"
            f"<span class='time'>{seconds(s)}</span></span>"
        )


def _cells(row: ComparedRow) -> list[Cell | str]:
    return [
        row.module or "whole model",
        row.op if row.phase is None else f"{row.op}, {row.phase}",
        Cell(seconds(row.a_s), row.a_s),
        Cell(seconds(row.b_s), row.b_s),
        _factor_cell(row.ratio),
        _factor_cell(row.corrected_ratio),
    ]


def _factor_cell(ratio: float | None) -> Cell:
    return Cell("") if ratio is None else Cell(factor(ratio), ratio)


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escaped(text)}</li>' for text in texts)}</ul>" if texts else ""


def _differences(title: str, differences: Sequence[Difference]) -> str:
    parts = [
        f"<h3>{escaped(', '.join(item.modules))}</h3><p><b class='side-a'>A</b> {escaped(item.a)}<br>"
        f"<b class='side-b'>B</b> {escaped(item.b)}</p>"
        for item in differences
    ]
    return f"<h2>{escaped(title)}</h2>{''.join(parts)}" if parts else ""
