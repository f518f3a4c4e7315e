"""What `pascaline plan --json` prints: a record of predictions, to be compared with what was measured."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pascaline.core.errors import CheckpointError
from pascaline.report.importers.importer import Importer
from pascaline.report.record_file import RecordFile
from pascaline.report.run_record import Cpu, Gpu, Row, RunRecord

_PROCESSOR = "cpu"


class _Predicted(msgspec.Struct):
    prompt_tokens: Annotated[int, msgspec.Meta(gt=0, le=1 << 40)]


class _Plan(msgspec.Struct):
    """The fields that a record has, too."""

    model: str
    gpu: str
    predicted: _Predicted
    rows: list[Row]


def _read(file: RecordFile) -> RunRecord:
    try:
        plan = msgspec.json.decode(file.whole(), type=_Plan)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{file.path} is not what pascaline plan --json prints: {error}") from None
    is_card = plan.gpu != _PROCESSOR
    return RunRecord(
        kind="plan",
        created=None,
        gpu=Gpu(name=plan.gpu) if is_card else None,
        cpu=None if is_card else Cpu(name=plan.gpu),
        model={"name": plan.model},
        tokens=plan.predicted.prompt_tokens,
        rows=plan.rows,
        notes=["a plan: its times are predicted"],
    )


IMPORTER = Importer(
    kind="what pascaline plan --json prints",
    recognises=lambda file: {"rows", "fits", "predicted"} <= file.members.keys(),
    read=_read,
)
