"""Bare trees of module times: {"unit": "ms", "modules": {"model.layers.0.mlp": 100.1, …}, …}.

What hooks with CUDA events write, `docs/how-to/module_times.py` among them. The modules may stand beside the
other fields, too: {"unit": "s", "model.norm": 0.1}. Times hold those of the modules below.

Only `unit` (s, ms, us, ns) must be there. Other fields: modules; calls {module: n}; gpu (a name, or an object
as in a run record); compute_capability; cpu; model (a name); config (config.json); tokens (in all calls);
batch; phase; layers_recorded; dispatch {"linears" or the end of a module's name: what its code decided};
software; and any text, which becomes a note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import msgspec

from pascaline.core.errors import CheckpointError
from pascaline.report.described_run import gpu_named, read_config_fields
from pascaline.report.importers.importer import Importer
from pascaline.report.module_names import MODULE, place_of
from pascaline.report.module_tree import tree_rows
from pascaline.report.record_file import RecordFile
from pascaline.report.run_record import Cpu, Phase, RecordedDecision, Row, RunRecord
from pascaline.report.work_of_rows import with_work

_SECONDS = {
    **dict.fromkeys(("s", "sec", "seconds"), 1.0),
    **dict.fromkeys(("ms", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "µs", "μs", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanoseconds"), 1e-9),
}
_MAX_MODULES = 1 << 17
_MAX_TOKENS = 1 << 40
_MAX_TIME = 1e15
_FIELDS = frozenset(
    (
        *(
            "unit",
            "modules",
            "calls",
            "gpu",
            "compute_capability",
            "cpu",
            "model",
            "config",
            "tokens",
            "batch",
        ),
        *("phase", "layers_recorded", "dispatch", "software", "created"),
    )
)
_ARITHMETIC = re.compile(r"\b(half|fp16|bf16|fp32|single|fp64|double|int8|dp4a)[- ](?:precision )?arithmetic")
_CHOICES = {"half": "fp16", "single": "fp32", "double": "fp64", "dp4a": "int8"}


@dataclass(frozen=True)
class _Fields:
    """The file's members by name, decoded one by one, and named when they are wrong."""

    file: RecordFile

    def get(self, name: str) -> object:
        raw = self.file.members.get(name)
        try:
            return None if raw is None else cast(object, msgspec.json.decode(raw))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CheckpointError(f"{self.file.path}: {name} is not valid JSON: {error}") from None

    def wrong(self, name: str, value: object, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.file.path}: {name} is {repr(value)[:80]}", expected=expected)

    def count(self, name: str) -> int | None:
        value = self.get(name)
        if value is None or (type(value) is int and 0 < value <= _MAX_TOKENS):
            return value
        raise self.wrong(name, value, "a whole number above 0, or null")

    def mapping(self, name: str) -> Mapping[str, object]:
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(name, value, "an object")
        return cast(dict[str, object], value)

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is None or isinstance(value, str):
            return value
        raise self.wrong(name, value, "a text")


def _recognises(file: RecordFile) -> bool:
    members = file.members
    return "modules" in members or ("unit" in members and "rows" not in members)


def _read(file: RecordFile) -> RunRecord:
    fields = _Fields(file)
    times = _times(fields)
    is_flat = "modules" not in file.members
    name = None if is_flat and "model" in times else fields.text("model")
    config = read_config_fields(fields.mapping("config"), name)
    tokens, batch = fields.count("tokens"), fields.count("batch")
    calls = {
        module: count
        for module, count in fields.mapping("calls").items()
        if type(count) is int and 0 < count <= _MAX_TOKENS
    }
    layers = {place.layer for module in times if (place := place_of(module)).layer is not None}
    is_complete = fields.get("layers_recorded") is None and len(layers) == config.get("num_hidden_layers")
    rows = tree_rows(times, calls, layers_are_complete=is_complete)
    rows = _with_decisions(rows, fields)
    phase = fields.text("phase")
    if phase not in (None, "prefill", "decode"):
        raise fields.wrong("phase", phase, "prefill, decode or null")
    rows = [msgspec.structs.replace(row, phase=cast(Phase | None, phase)) for row in rows]
    cpu = fields.text("cpu")
    record = RunRecord(
        kind="imported",
        created=fields.text("created"),
        software={name: str(version)[:200] for name, version in fields.mapping("software").items()},
        gpu=gpu_named(fields.get("gpu"), fields.get("compute_capability"), file.path),
        cpu=None if cpu is None else Cpu(name=cpu),
        model=dict(config),
        tokens=tokens,
        batch=batch,
        rows=rows,
        notes=_notes(fields, times),
    )
    return with_work(record)


def _times(fields: _Fields) -> dict[str, float | None]:
    unit = fields.get("unit")
    seconds = _SECONDS.get(unit) if isinstance(unit, str) else None
    if seconds is None:
        raise fields.wrong("unit", unit, "one of " + ", ".join(_SECONDS))
    if "modules" in fields.file.members:
        found = fields.mapping("modules")
    else:
        # "model" is the model's name where it is a text, and a module's time where it is a number.
        found = {
            name: value
            for name in fields.file.members
            if (name not in _FIELDS or name == "model")
            and not isinstance(value := fields.get(name), str | list | dict | None)
        }
    if not found or len(found) > _MAX_MODULES:
        raise CheckpointError(
            f"{fields.file.path} holds the times of {len(found)} modules", expected=f"1 to {_MAX_MODULES}"
        )
    times: dict[str, float | None] = {}
    for module, value in found.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= cast(float, value) < _MAX_TIME):
            expected = f"a number of {unit}, 0 or more, or null"
            raise fields.wrong(f"the time of {module!r}"[:300], value, expected)
        times[module] = None if value is None else float(cast(float, value)) * seconds
    return times


def _with_decisions(rows: list[Row], fields: _Fields) -> list[Row]:
    """Where the file says what a module's code decided, put that into its rows.

    "linears" are those within layers: the others are seldom quantised.
    """
    decisions = {
        name: RecordedDecision(choice=_choice(text), reason=text[:1000])
        for name, text in fields.mapping("dispatch").items()
        if isinstance(text, str)
    }

    def decided(row: Row) -> Row:
        if row.op == MODULE:
            return row
        for name, decision in decisions.items():
            is_linear = name == "linears" and row.op == "linear" and place_of(row.module).layer is not None
            if is_linear or row.module == name or row.module.endswith(f".{name}"):
                return msgspec.structs.replace(row, decision=decision)
        return row

    return [decided(row) for row in rows]


def _choice(text: str) -> str:
    """The arithmetic that a description of a branch names, or its beginning."""
    found = _ARITHMETIC.findall(text.lower())
    return _CHOICES.get(found[-1], found[-1]) if found else text[:80]


def _notes(fields: _Fields, times: Mapping[str, float | None]) -> list[str]:
    members = fields.file.members
    if len(members) > _MAX_MODULES:
        return []
    return [
        f"{name}: {value[:1000]}"
        for name in members
        if name not in _FIELDS and name not in times and isinstance(value := fields.get(name), str)
    ]


IMPORTER = Importer(kind="a tree of module times", recognises=_recognises, read=_read)
