"""pascaline diagnose: name the causes of a recorded run's slowness."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pascaline.cli.options import HtmlOption, JsonOption
from pascaline.cli.output import print_json, write_page


def diagnose(
    record: Annotated[
        Path,
        typer.Argument(
            metavar="RECORD",
            help="a run record, a tree of module times, a torch-profiler trace or an Nsight Systems export",
        ),
    ],
    gpu: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="the card that ran, if the record does not name it, or wrongly"),
    ] = None,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why the run in RECORD is slow: evidence, cause, remedy, and what the remedy would save."""
    from pascaline.diagnose.diagnosis import diagnose as diagnose_record
    from pascaline.report.importers import open_record

    diagnosis = diagnose_record(open_record(record), gpu)
    if html is not None:
        from pascaline.diagnose.findings_page import findings_page

        write_page(html, findings_page(diagnosis, record.name))
    if as_json:
        print_json(asdict(diagnosis))
    elif html is None:
        from pascaline.cli.findings_screen import print_findings

        print_findings(diagnosis)
