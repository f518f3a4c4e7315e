"""Kernel summaries of Nsight Systems: `nsys stats --report cuda_gpu_kern_sum --format csv`.

Only kernels and copies are known, no modules. The columns' names have changed with its versions ("Time(%)",
"Average" until 2021, "Time (%)", "Avg (ns)" since, and any unit that `--timeunit` sets), the report's own
name from gpukernsum to cuda_gpu_kern_sum. What stands before a table (progress, titles) is passed over; where
a file has several, those of the kernels and of the copies are taken (cuda_gpu_mem_time_sum).

Source: Nsight Systems user guide, Statistical Analysis, and its reports' headers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pascaline.core.errors import CheckpointError
from pascaline.report.importers.importer import Importer
from pascaline.report.module_names import copy_op
from pascaline.report.record_file import RecordFile
from pascaline.report.run_record import RecordedKernel, Row, RunRecord

_SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "ms": 1e-3,
    "msec": 1e-3,
    "us": 1e-6,
    "usec": 1e-6,
    "ns": 1e-9,
    "nsec": 1e-9,
}
_TOTAL = re.compile(r"total time(?: \((\w+)\))?", re.IGNORECASE)
_COUNTS = ("instances", "count", "operations")
_NAMES = ("name", "kernel name", "operation", "operations")
_HEADER = re.compile(rb'"?time ?\(%\)"?,"?total time', re.IGNORECASE)
_MAX_LINES = 1 << 20


@dataclass(frozen=True)
class _Columns:
    """Where a table has what."""

    total: int
    count: int
    name: int
    seconds: float

    @staticmethod
    def of(cells: Sequence[str]) -> _Columns | None:
        """None for a line that is no header."""
        names = [cell.strip().lower() for cell in cells]
        totals = [(index, found) for index, name in enumerate(names) if (found := _TOTAL.fullmatch(name))]
        counts = [index for index, name in enumerate(names) if name in _COUNTS]
        if not totals or not counts or names[-1] not in _NAMES or len(names) - 1 in counts:
            return None
        index, found = totals[0]
        seconds = _SECONDS.get(found[1] or "ns")
        return None if seconds is None else _Columns(index, counts[0], len(names) - 1, seconds)


def _recognises(file: RecordFile) -> bool:
    return _HEADER.search(file.head) is not None and file.head.lstrip()[:1] not in (b"{", b"[")


def _read(file: RecordFile) -> RunRecord:
    rows: dict[str, list[RecordedKernel]] = {}
    for kernel in _kernels(file):
        rows.setdefault(copy_op(kernel.name) or "kernels", []).append(kernel)
    if not rows:
        raise CheckpointError(f"{file.path} lists no kernel", expected="a line for each kernel")
    return RunRecord(
        kind="imported",
        created=None,
        rows=[
            Row(
                module="",
                op=op,
                calls=sum(kernel.calls for kernel in kernels),
                measured_s=sum(kernel.s or 0.0 for kernel in kernels),
                kernels=kernels,
            )
            for op, kernels in rows.items()
        ],
        notes=["a summary of kernels: modules, tokens and the GPU are not known"],
    )


def _kernels(file: RecordFile) -> Iterator[RecordedKernel]:
    text = file.whole().decode("utf-8-sig", "replace").replace("\0", "")
    columns: _Columns | None = None
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(text))):
            if number > _MAX_LINES:
                raise CheckpointError(f"{file.path} has more than {_MAX_LINES} lines")
            header = _Columns.of(cells) if len(cells) > 3 else None
            if header is not None:
                columns = header
            elif columns is not None and len(cells) == columns.name + 1:
                yield _kernel(file, columns, cells)
            else:
                columns = None  # the table is over
    except csv.Error as error:
        raise CheckpointError(f"{file.path} is not valid CSV: {error}") from None


def _kernel(file: RecordFile, columns: _Columns, cells: Sequence[str]) -> RecordedKernel:
    total, count = _number(cells[columns.total]), _number(cells[columns.count])
    if total is None or count is None or not 0 < count < 1 << 53 or count != int(count):
        shown = ", ".join(cells)[:200]
        raise CheckpointError(f"{file.path}: a line with {shown!r}", expected="a kernel's time and number")
    return RecordedKernel(name=cells[columns.name], calls=int(count), s=total * columns.seconds)


def _number(cell: str) -> float | None:
    """ "5,850,000" has separators; a word, NaN or a negative number is none."""
    try:
        value = float(cell.replace(",", ""))
    except ValueError:
        return None
    return value if 0 <= value < 1e18 else None


IMPORTER = Importer(kind="a kernel summary of Nsight Systems", recognises=_recognises, read=_read)
