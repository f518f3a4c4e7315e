"""pascaline compare: two runs, module by module, with the difference in work taken out."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pascaline.cli.options import HtmlOption, JsonOption
from pascaline.cli.output import new_table, open_console, print_json, say, write_page
from pascaline.core.errors import printable

if TYPE_CHECKING:
    from pascaline.report.compare import Comparison

_PRINTED_ROWS = 40
_PLAIN_WIDTH = 200


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="a run record, or a trace of another engine")],
    b: Annotated[Path, typer.Argument(metavar="B", help="what to compare it with")],
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs: of two machines, two engines, or before and after a change.

    A and B may be run records, trees of module times, traces of torch.profiler or exports of Nsight Systems.
    """
    from pascaline.report.compare import compare as compare_records
    from pascaline.report.importers import open_record

    records = open_record(a), open_record(b)
    comparison = compare_records(*records, str(a), str(b))
    if html is not None:
        from pascaline.report.compare_page import compare_page

        write_page(html, compare_page(comparison))
    if as_json:
        print_json(asdict(comparison))
    elif html is None:
        _print(comparison)


def _print(comparison: Comparison) -> None:
    from pascaline.report.compare_words import side_words
    from pascaline.report.numbers import factor, seconds

    console = open_console(_PLAIN_WIDTH)
    line = partial(say, console)
    line(f"A  {side_words(comparison.a)}")
    line(f"B  {side_words(comparison.b)}")
    line()
    line(f"Work: {comparison.work_ratio_reason}.")
    line()
    if comparison.stands_out:
        line("What stands out:", "bold")
        for item in comparison.stands_out:
            line(f"  {item.text}")
    else:
        line("Nothing stands out: every module is slower or faster by about the same.")
    line()
    is_corrected = comparison.work_ratio not in (None, 1.0)
    table = new_table(console)
    table.add_column("module", overflow="fold")
    for heading in ("A", "B", "A / B", *(["same work"] if is_corrected else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    listed = {item.module for item in comparison.stands_out}
    for row in comparison.rows[:_PRINTED_ROWS]:
        name = printable(f"{row.module or 'whole model'} ({row.op})")
        cells = [seconds(row.a_s), seconds(row.b_s), factor(row.ratio)]
        cells += [factor(row.corrected_ratio)] if is_corrected else []
        table.add_row(name, *cells, style="bold" if row.module in listed else None)
    console.print(table, markup=False, highlight=False)
    if len(comparison.rows) > _PRINTED_ROWS:
        line(f"… and {len(comparison.rows) - _PRINTED_ROWS} more: --json or --html shows them all")
    for title, differences in (
        ("Kernels differ:", comparison.kernels),
        ("Decisions differ:", comparison.decisions),
    ):
        if differences:
            line()
            line(title, "bold")
        for difference in differences:
            names = ", ".join(difference.modules)
            line(f"  {names}\n    A  {difference.a[:300]}\n    B  {difference.b[:300]}")
    line()
    for note in comparison.notes:
        line(f"Note: {note}.")
