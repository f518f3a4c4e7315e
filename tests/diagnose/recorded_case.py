"""Fixtures of rules: a record, the card it is diagnosed for, and the source of its numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pascaline.diagnose.diagnosis import Diagnosis, diagnose
from pascaline.report.importers import open_record
from pascaline.report.run_record import RunRecord, decode_record

FIXTURES = Path(__file__).parents[1] / "fixtures"


@dataclass(frozen=True)
class RecordedCase:
    """One fixture of a rule."""

    path: Path
    source: str
    gpu: str | None
    record: RunRecord

    def diagnosis(self) -> Diagnosis:
        return diagnose(self.record, self.gpu)


def recorded_cases(slug: str, prefix: str) -> list[RecordedCase]:
    """A rule's fixtures whose names begin so ("fires", "near_miss")."""
    return [_read(path) for path in sorted((FIXTURES / "diagnose" / slug).glob(f"{prefix}*.json"))]


def _read(path: Path) -> RecordedCase:
    content = json.loads(path.read_text())
    file = content.get("record_file")
    record = (
        open_record(FIXTURES / file) if file else decode_record(json.dumps(content["record"]).encode(), path)
    )
    return RecordedCase(path, content["source"], content["gpu"], record)
