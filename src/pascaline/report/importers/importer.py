"""What an importer is: one kind of file, recognised by its content, and how a record is read from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pascaline.report.record_file import RecordFile
from pascaline.report.run_record import RunRecord


@dataclass(frozen=True)
class Importer:
    """One kind of file.

    Parameters
    ----------
    kind : what it is called in messages.
    recognises : whether a file is of this kind, whatever its name.
    read : the record; raises CheckpointError when the file is damaged.
    """

    kind: str
    recognises: Callable[[RecordFile], bool]
    read: Callable[[RecordFile], RunRecord]
