"""Exports of Nsight Systems: `nsys export --type sqlite` (or `nsys profile --export sqlite`).

Kernels and copies with their launches, the card, and modules from NVTX ranges that are named by module paths
(`torch.cuda.nvtx.range_push("model.layers.0.mlp")`, or a dictionary with 'Module' as layerwise tracing of
several engines writes). Ranges named "prefill" and "decode" tell the phases apart.

Tables and columns have come and gone with its versions: what is not there is not read.

Source: Nsight Systems user guide, SQLite Schema Reference; its enumerations for copyKind and eventType.
"""

from __future__ import annotations

import re
import sqlite3
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pascaline.core.errors import CheckpointError
from pascaline.report.importers.importer import Importer
from pascaline.report.module_names import COPIES
from pascaline.report.record_file import RecordFile
from pascaline.report.run_record import Gpu, RunRecord
from pascaline.report.traces.attribution import Launch, Placed, Range, busy_s, rows_of

_NS = 1e-9
_KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
_COPIES = "CUPTI_ACTIVITY_KIND_MEMCPY"
_MEMSETS = "CUPTI_ACTIVITY_KIND_MEMSET"
_RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
_RANGES = "NVTX_EVENTS"
_COPY_KINDS = {1: "HtoD", 2: "DtoH", 8: "DtoD", 10: "PtoP"}
_RANGE_TYPES = (59, 60)  # push/pop, start/end
_PHASES = ("prefill", "decode")
_MODULE = re.compile(r"'Module': '([\w.]+)'")
_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_MAX_ROWS = 4_000_000
# A damaged or hostile file may make SQLite work without end; an honest query of so many rows is far below.
_MAX_STEPS = 20_000
_STEP = 100_000
_MAX_TEXT = 1 << 20


@dataclass
class _Export:
    """An opened database: rows of tables as they are there."""

    path: str
    connection: sqlite3.Connection
    tables: Mapping[str, frozenset[str]] = field(default_factory=dict)
    steps: int = 0

    def open(self) -> None:
        self.connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self.connection.set_progress_handler(self._step, _STEP)
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_TEXT)
        self.connection.execute("PRAGMA trusted_schema = OFF")
        names = [
            str(name)
            for (name,) in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        wanted = {*(_KERNELS, _COPIES, _MEMSETS, _RUNTIME, _RANGES)}
        wanted |= {"StringIds", "TARGET_INFO_GPU", "TARGET_INFO_SESSION_START_TIME"}
        self.tables = {
            name: frozenset(str(row[1]) for row in self.connection.execute(f"PRAGMA table_info({name})"))
            for name in names
            if name in wanted
        }

    def _step(self) -> int:
        self.steps += 1
        return self.steps > _MAX_STEPS

    def rows(self, table: str, columns: Sequence[str]) -> Iterator[Any]:
        """Values of the columns, None for one that the table has not; nothing where there is no table."""
        known = self.tables.get(table, frozenset())
        if not known:
            return
        chosen = ", ".join(f'"{column}"' if column in known else "NULL" for column in columns)
        query = f"SELECT {chosen} FROM {table}"  # noqa: S608 - names of lists in this file, not of the export
        for number, row in enumerate(self.connection.execute(query)):
            if number >= _MAX_ROWS:
                raise CheckpointError(
                    f"{self.path} has more than {_MAX_ROWS} rows in {table}", remedy="Record fewer steps"
                )
            yield row


def _read(file: RecordFile) -> RunRecord:
    uri = f"file:{quote(str(file.path.resolve()))}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            export = _Export(str(file.path), connection)
            export.open()
            return _record(export)
    except (sqlite3.Error, OverflowError) as error:
        raise CheckpointError(
            f"{file.path} cannot be read as an export of Nsight Systems: {error}",
            remedy="Export the report again: nsys export --type sqlite REPORT.nsys-rep",
        ) from None


def _record(export: _Export) -> RunRecord:
    if _KERNELS not in export.tables:
        raise CheckpointError(
            f"{export.path} has no table {_KERNELS}",
            expected="an export of a CUDA trace",
            remedy="Profile with nsys profile --trace=cuda,nvtx",
        )
    strings = dict(export.rows("StringIds", ("id", "value")))
    launched = {
        correlation: (thread, start)
        for correlation, thread, start in export.rows(_RUNTIME, ("correlationId", "globalTid", "start"))
        if isinstance(start, int)
    }
    modules, phases = _ranges(export, strings)
    starts, ends = array("d"), array("d")
    devices: dict[int, int] = {}
    unknown = 0
    for correlation, device, work in _gpu_work(export, strings):
        thread, at = launched.get(correlation, (None, work.at))
        unknown += thread is None
        modules.launches[thread].append(Launch(at, work.seconds, work.name, work.op, work.nbytes))
        starts.append(work.at)
        ends.append(work.at + work.seconds / _NS)
        devices[device] = devices.get(device, 0) + 1
    notes = []
    if not any(modules.ranges.values()):
        notes.append("no range names a module: see docs/how-to/diagnose-vllm.md")
    if unknown:
        notes.append(f"{unknown} of {len(starts)} kernels and copies have no recorded launch")
    return RunRecord(
        kind="imported",
        created=_created(export),
        gpu=_gpu(export, devices),
        elapsed_s=(max(ends) - min(starts)) * _NS if starts else None,
        gpu_busy_s=busy_s(starts, ends) * _NS if starts else None,
        rows=rows_of(modules, phases),
        notes=notes,
    )


def _gpu_work(export: _Export, strings: Mapping[Any, Any]) -> Iterator[tuple[Any, int, Launch]]:
    """Kernels, copies and memsets: their launch's correlation, the device, and what they did."""
    common = ("correlationId", "deviceId", "start", "end")
    for correlation, device, start, end, full, short in export.rows(
        _KERNELS, (*common, "demangledName", "shortName")
    ):
        name = str(strings.get(full, strings.get(short, "a kernel without a name")))
        yield correlation, _device(device), Launch(start, _seconds(export, name, start, end), name)
    for correlation, device, start, end, kind, nbytes in export.rows(_COPIES, (*common, "copyKind", "bytes")):
        short = _COPY_KINDS.get(kind, "")
        name = f"memcpy {short}".strip()
        op = COPIES.get(short, COPIES["DtoD"])
        size = nbytes if isinstance(nbytes, int) and nbytes >= 0 else None
        yield correlation, _device(device), Launch(start, _seconds(export, name, start, end), name, op, size)
    for correlation, device, start, end in export.rows(_MEMSETS, common):
        seconds = _seconds(export, "memset", start, end)
        yield correlation, _device(device), Launch(start, seconds, "memset", "memset")


def _device(value: object) -> int:
    return value if isinstance(value, int) else 0


def _seconds(export: _Export, name: str, start: object, end: object) -> float:
    if not isinstance(start, int) or not isinstance(end, int) or end < start:
        raise CheckpointError(
            f"{export.path}: {name[:200]!r} runs from {str(start)[:40]} to {str(end)[:40]}",
            expected="two times in nanoseconds, the second not before the first",
        )
    return (end - start) * _NS


def _ranges(export: _Export, strings: Mapping[Any, Any]) -> tuple[Placed, Placed]:
    """Ranges of modules, and of phases."""
    modules, phases = Placed(), Placed()
    columns = ("start", "end", "eventType", "text", "textId", "globalTid")
    for start, end, kind, text, text_id, thread in export.rows(_RANGES, columns):
        if kind not in _RANGE_TYPES or not isinstance(start, int) or not isinstance(end, int) or end < start:
            continue
        name = str(text if text is not None else strings.get(text_id, ""))
        found = _MODULE.search(name)
        path = found[1] if found else name
        if path in _PHASES:
            phases.ranges[thread].append(Range(start, end, path))
        elif _PATH.fullmatch(path):
            modules.ranges[thread].append(Range(start, end, path))
    return modules, phases


def _gpu(export: _Export, devices: Mapping[int, int]) -> Gpu | None:
    """The card that ran most."""
    busiest = max(devices, key=lambda device: devices[device], default=0)
    columns = ("id", "name", "computeMajor", "computeMinor", "totalMemory")
    for device, name, major, minor, memory in export.rows("TARGET_INFO_GPU", columns):
        if device == busiest and isinstance(name, str):
            is_known = isinstance(major, int) and isinstance(minor, int)
            return Gpu(
                name=name,
                compute_capability=f"{major}.{minor}" if is_known else None,
                memory_gib=memory / 2**30 if isinstance(memory, int) and memory > 0 else None,
            )
    return None


def _created(export: _Export) -> str | None:
    for (start,) in export.rows("TARGET_INFO_SESSION_START_TIME", ("utcEpochNs",)):
        if isinstance(start, int) and start > 0:
            try:
                return datetime.fromtimestamp(start * _NS, UTC).isoformat(timespec="seconds")
            except (ValueError, OverflowError, OSError):
                return None
    return None


def _recognises(file: RecordFile) -> bool:
    return file.head.startswith(b"SQLite format 3\0") and not file.is_compressed


IMPORTER = Importer(kind="an sqlite export of Nsight Systems", recognises=_recognises, read=_read)
