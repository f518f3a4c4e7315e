"""`RunRecord`: one versioned JSON schema for everything that was predicted or measured.

Plan writes what it predicts, benchmarks and profiles what they measured, importers what other
tools recorded; whatever compares, diagnoses or draws reads only this. What is unknown is null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from pascaline.core.errors import CheckpointError
from pascaline.core.files import write_atomically

_MAX_BYTES = 64 << 20
_MAX_LISTS = 1 << 20
SCHEMA = 1
"""Raised when a reader of the old form could misunderstand the new one."""

Kind = Literal["plan", "profile", "bench", "imported"]
Phase = Literal["prefill", "decode"]
BoundBy = Literal["compute", "memory", "latency"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts: immutable; a field that the schema does not know is an error."""


class Gpu(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The card that ran. Clocks and power are measured during the run."""

    name: str
    compute_capability: str | None = None
    memory_gib: float | None = None
    driver: str | None = None
    clock_mhz_measured: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


class Cpu(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processor that ran."""

    name: str
    threads: int | None = None
    instruction_sets: list[str] = []
    read_gb_per_s_measured: float | None = None


class Alternative(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way that was not taken."""

    choice: str
    predicted_s: float | None = None


class RecordedDecision(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the numerics policy chose for a row, and why."""

    choice: str
    reason: str
    alternatives: list[Alternative] = []


class RecordedKernel(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kernel's launches within a row."""

    name: str
    calls: int
    s: float | None = None


class Row(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One op of one module (or a whole phase, with module "").

    Times are totals over `calls`, in seconds; `bytes` and `flop_by_type` likewise. `bound_s` is
    the time that this chip cannot beat, and `bound_by` what sets it. Arithmetic whose type was not
    recorded is of type "unknown".

    A row of op "module" is a container: its time includes that of the rows below it
    (`report.module_tree`). With module "", op "kernels" holds what no module is known for, and
    "copy_host_to_device", "copy_device_to_host", "copy_device_to_device", "copy_peer_to_peer" and "memset"
    what the copy engines moved.
    """

    module: str
    op: str
    phase: Phase | None = None
    calls: int = 1
    measured_s: float | None = None
    predicted_s: float | None = None
    bound_s: float | None = None
    bound_by: BoundBy | None = None
    flop_by_type: dict[str, float] = {}
    bytes: int | None = None
    kernels: list[RecordedKernel] = []
    decision: RecordedDecision | None = None


class RunRecord(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run. `tokens` is the prompt's length in prefill rows' units, `batch` the sequences.

    `model` is the model's config.json, as far as it is known, and under "name" what it was called.
    `elapsed_s` is the wall time from the first to the last thing recorded, `gpu_busy_s` the part of it in
    which the GPU ran a kernel or a copy; the difference is the launch gaps.
    """

    kind: Kind
    created: str | None
    schema: int = SCHEMA
    software: dict[str, str] = {}
    gpu: Gpu | None = None
    cpu: Cpu | None = None
    model: dict[str, object] = {}
    tokens: int | None = None
    batch: int | None = None
    elapsed_s: float | None = None
    gpu_busy_s: float | None = None
    rows: list[Row] = []
    notes: list[str] = []


class _Head(msgspec.Struct):
    """What tells the schema of any record, past or to come."""

    schema: object = None


def to_json(record: RunRecord) -> bytes:
    """The record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2)


def write_record(record: RunRecord, path: Path) -> None:
    """Write the record's JSON: whole or not at all."""
    write_atomically(path, to_json(record) + b"\n")


def read_record(path: Path) -> RunRecord:
    """Read and check a record.

    Raises
    ------
    CheckpointError : the file is missing, no JSON, of another schema, or has wrong fields.
    """
    try:
        with path.open("rb") as file:  # a pipe, maybe, or a device without an end
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    return decode_record(data, path)


def decode_record(data: bytes, path: Path) -> RunRecord:
    """A record from its JSON; `path` is named where it is none."""
    try:
        if len(data) > _MAX_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_BYTES >> 20} MiB", expected="a run record")
        if data.count(b"[") + data.count(b"{") > _MAX_LISTS:
            raise CheckpointError(f"{path} holds more lists than any run has", expected="a run record")
        schema = msgspec.json.decode(data, type=_Head).schema
        if schema != SCHEMA:
            raise CheckpointError(f"{path}: a record of schema {schema!r}", expected=f"schema {SCHEMA}")
        return msgspec.json.decode(data, type=RunRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a run record: {error}") from None
