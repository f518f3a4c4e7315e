"""One file a kind of record that others write. A new kind is a file and a line in `IMPORTERS`."""

from __future__ import annotations

import math
from pathlib import Path

from pascaline.core.errors import CheckpointError
from pascaline.report.importers import (
    chrome_trace,
    module_times,
    nsys_csv,
    nsys_sqlite,
    own_record,
    printed_plan,
)
from pascaline.report.importers.importer import Importer
from pascaline.report.record_file import look_into
from pascaline.report.run_record import RunRecord

IMPORTERS: tuple[Importer, ...] = (
    nsys_sqlite.IMPORTER,
    nsys_csv.IMPORTER,
    chrome_trace.IMPORTER,
    own_record.IMPORTER,
    printed_plan.IMPORTER,
    module_times.IMPORTER,
)
"""In the order in which they are asked."""


def open_record(path: Path) -> RunRecord:
    """The record in a file of any kind that we know, by its content and whatever its name.

    Raises
    ------
    CheckpointError : it cannot be read, is of no kind that we know, is damaged, or its times are none.
    """
    file = look_into(path)
    for importer in IMPORTERS:
        if importer.recognises(file):
            record = importer.read(file)
            _check_times(record, path)
            return record
    raise CheckpointError(
        f"{path} is of no kind that can be read",
        expected="one of " + ", ".join(importer.kind for importer in IMPORTERS),
    )


def _check_times(record: RunRecord, path: Path) -> None:
    if not record.rows and not record.notes:  # of a run that failed, notes are all there is
        raise CheckpointError(f"{path} holds no measurement", expected="at least one module or kernel")
    for row in record.rows:
        times = (row.measured_s, row.predicted_s, row.bound_s, *(kernel.s for kernel in row.kernels))
        for seconds in times:
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise CheckpointError(
                    f"{path}: {row.module or row.op} took {seconds} s", expected="a time of 0 s or more"
                )


__all__ = ["IMPORTERS", "Importer", "open_record"]
