"""Records that Pascaline wrote itself: nothing is changed."""

from __future__ import annotations

from pascaline.report.importers.importer import Importer
from pascaline.report.record_file import RecordFile
from pascaline.report.run_record import RunRecord, decode_record

IMPORTER = Importer(
    kind="Pascaline's run record",
    recognises=lambda file: "schema" in file.members and "rows" in file.members,
    read=lambda file: _read(file),
)


def _read(file: RecordFile) -> RunRecord:
    return decode_record(file.whole(), file.path)
