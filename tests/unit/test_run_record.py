"""Records survive the disk; what is no record is refused with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pascaline.core.errors import CheckpointError, ConfigError
from pascaline.report.run_record import (
    Alternative,
    Cpu,
    Gpu,
    RecordedDecision,
    RecordedKernel,
    Row,
    RunRecord,
    read_record,
    to_json,
    write_record,
)

RECORD = RunRecord(
    kind="profile",
    created="2026-01-31T12:00:00Z",
    software={"pascaline": "0.1.0"},
    gpu=Gpu(name="Tesla P40", compute_capability="6.1", clock_mhz_measured=1531.0),
    cpu=Cpu(name="a processor", threads=4, instruction_sets=["avx2"]),
    model={"hidden_size": 576},
    tokens=512,
    batch=1,
    rows=[
        Row(
            module="model.layers.0.mlp.up_proj",
            op="linear",
            phase="prefill",
            calls=2,
            measured_s=0.25,
            bound_s=0.125,
            bound_by="compute",
            flop_by_type={"fp32": 1e9},
            bytes=1 << 40,
            kernels=[RecordedKernel(name="gemm", calls=2, s=0.25)],
            decision=RecordedDecision(
                choice="fp32", reason="half is slow here", alternatives=[Alternative(choice="half")]
            ),
        )
    ],
    notes=["Größe"],
)


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(RECORD, path)
    assert read_record(path) == RECORD
    assert json.loads(path.read_bytes())["schema"] == 1


def test_what_is_unknown_is_null() -> None:
    row = json.loads(to_json(RunRecord(kind="plan", created="now", rows=[Row(module="", op="step")])))[
        "rows"
    ][0]
    assert row["measured_s"] is None
    assert row["bytes"] is None
    assert row["decision"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"schema 2 \(expected schema 1\)"),
        ({"kind": "guess"}, "guess"),
        ({"surprise": 1}, "surprise"),
        ({"rows": [{"module": "m", "op": "linear", "measured_s": "fast"}]}, "measured_s"),
        ({"rows": [{"module": "m"}]}, "op"),
        ({"gpu": {"name": "P40", "colour": "green"}}, "colour"),
    ],
)
def test_wrong_fields_are_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(json.loads(to_json(RECORD)) | change))
    with pytest.raises(CheckpointError, match=message):
        read_record(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is not a run record"), (b"\xff\xfe", "is not a run record"), (b"[1]", "is not a run record")],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_record(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*nowhere\.json"):
        read_record(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match=r"cannot write .*nowhere/record\.json: No such file"):
        write_record(RECORD, tmp_path / "nowhere" / "record.json")
