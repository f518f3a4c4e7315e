"""pascaline bench gemm: matrix products by precision and algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pascaline.cli.interrupts import uninterrupted
from pascaline.cli.options import Device, DeviceOption, JsonOption
from pascaline.cli.output import print_json
from pascaline.cli.progress_bars import ProgressBars
from pascaline.core.files import writable_folder
from pascaline.core.units import format_number
from pascaline.hardware.measured import measured_folder
from pascaline.report.numbers import seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pascaline.bench.gemm import GemmReport, GemmRow

_BAR = 10
_WIDE = 100
"""Columns that a table with everything takes."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


def gemm(
    device: DeviceOption = Device.auto,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="M,N,K", help="rows, and the weight's rows and columns; may be repeated"),
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="keep the rates for the planner")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure matrix products by precision and algorithm, against this chip's limits."""
    # torch takes a second to import: --help must not wait for it.
    with uninterrupted():
        from pascaline.bench.gemm import bench_gemm
        from pascaline.bench.gemm_findings import findings
        from pascaline.bench.gemm_results import as_json as described
        from pascaline.bench.gemm_results import save as save_rates
        from pascaline.bench.product import parse_shape
        from pascaline.engine.device import settle_device

    shapes = [parse_shape(text) for text in shape or ()]
    if save:
        writable_folder(measured_folder())
    with ProgressBars() as progress:
        settled, notes = settle_device(device.value)
        report = bench_gemm(settled, shapes, progress)
    report = replace(report, notes=(*notes, *report.notes))
    if as_json:
        print_json(described(report, save_rates(report) if save else None))
        return
    from rich.console import Console

    console = Console()
    _print_tables(console, report)
    for sentence in findings(report):
        _print(console, f"• {sentence}")
    for note in report.notes:
        _print(console, f"Note: {note}.")
    if save:  # after all that is told: the disk may be full
        _print_saved(console, save_rates(report))


def _print_tables(console: Console, report: GemmReport) -> None:
    clock = "" if report.clock_mhz is None else f", {report.clock_mhz:.0f} MHz measured"
    threads = "" if report.threads is None else f", {report.threads} threads"
    _print(console, f"{report.name}{threads}{clock}")
    paths = len(report.rows) // len(report.shapes)
    for index, shape in enumerate(report.shapes):
        rows = report.rows[index * paths : (index + 1) * paths]
        console.print(_table(f"{shape} (M×N×K)", rows, is_narrow=console.width < _WIDE))
        for row in rows:
            if row.note:
                _print(console, f"  {row.precision}, {row.algorithm}: {row.note}")
        console.print()


def _table(title: str, rows: Sequence[GemmRow], *, is_narrow: bool) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, collapse_padding=True)
    table.add_column("precision")
    table.add_column("by")
    for name in ("time", "TFLOP/s", *(() if is_narrow else ("GB/s",))):
        table.add_column(name, justify="right")
    table.add_column("of the limit", no_wrap=True)
    table.add_column("bound by")
    table.add_column("of the library" if is_narrow else "of the best library", justify="right")
    for row in rows:
        by = row.algorithm.removeprefix("pascaline ")
        if row.timing is None or row.tflops is None:
            table.add_row(row.precision, by, "–", "–")
            continue
        share, of_library = row.share_of_limit, row.share_of_best_library
        table.add_row(
            row.precision,
            by,
            seconds(row.timing.median_s),
            format_number(row.tflops),
            *(() if is_narrow else (f"{(row.bytes_per_s or 0.0) / 1e9:.1f}",)),
            "" if share is None else f"{_bar(share, _BAR // 2 if is_narrow else _BAR)} {share:4.0%}",
            row.bound_by or "",
            "" if of_library is None else f"{of_library:.0%}",
        )
    return table


def _bar(share: float, width: int) -> str:
    eighths = round(min(share, 1.0) * width * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).ljust(width)[:width]


def _print(console: Console, text: str) -> None:
    """As it is: what it quotes may look like markup."""
    console.print(text, highlight=False, markup=False)


def _print_saved(console: Console, saved: tuple[Path, Path]) -> None:
    rates, record = saved
    console.print(
        f"saved: {rates}, which `pascaline plan` reads", highlight=False, markup=False, soft_wrap=True
    )
    console.print(f"       {record}, a run record", highlight=False, markup=False, soft_wrap=True)
