"""Traces of torch.profiler (Chrome's trace format, .json or .json.gz), of vLLM's among others.

Modules come from ranges named by their paths (`record_function("model.layers.0.mlp")`), or else from the
nn.Module events that `with_stack=True` records. Where the trace has GPU kernels, times are theirs; else they
are those of torch's operators on the CPU, each without what it called. Ranges named "prefill" and "decode"
tell the phases apart. `prof.add_metadata_json("pascaline", …)` may add what a trace does not know:
{"config": config.json, "model": name, "tokens": n, "batch": n}.

Source of the events' fields: pytorch/kineto, libkineto/src/output_json.cpp.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from pascaline.core.errors import CheckpointError
from pascaline.report.described_run import described_model, positive
from pascaline.report.importers.importer import Importer
from pascaline.report.module_names import copy_op
from pascaline.report.record_file import RecordFile
from pascaline.report.run_record import Cpu, Gpu, RunRecord
from pascaline.report.traces.attribution import Launch, Placed, Range, Thread, busy_s, nested, rows_of
from pascaline.report.traces.class_names import paths_of
from pascaline.report.traces.json_events import Event, is_trace, read_events
from pascaline.report.work_of_rows import with_work

_US = 1e-6
_MAX_KEPT = 4_000_000
_MODULE_EVENT = "nn.Module: "
_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_PHASES = ("prefill", "decode")
# Older torch capitalises some of these and calls others by another name.
_KERNELS = frozenset({"kernel"})
_COPIES = frozenset({"gpu_memcpy", "memcpy", "gpu_memset", "memset"})
_RUNTIME = frozenset({"cuda_runtime", "cuda_driver", "runtime", "driver"})
_OPERATORS = frozenset({"cpu_op", "operator"})
# What computes on the CPU if no kernel is launched in it.
_HEAVY_OPERATORS = re.compile(r"aten::(mm|addmm|bmm|baddbmm|_scaled_dot_product\w*_cpu|_int_mm|embedding)$")


@dataclass
class _Kept:
    """What of a trace is needed, in the trace's microseconds."""

    file: RecordFile
    gpu_work: list[tuple[int, Launch]] = field(default_factory=list)
    launched: dict[int, tuple[Thread, float]] = field(default_factory=dict)
    operators: Placed = field(default_factory=Placed)
    instances: Placed = field(default_factory=Placed)
    annotations: Placed = field(default_factory=Placed)
    devices: dict[int, float] = field(default_factory=dict)
    gpu_starts: array[float] = field(default_factory=lambda: array("d"))
    gpu_ends: array[float] = field(default_factory=lambda: array("d"))
    first: float = math.inf
    last: float = -math.inf
    count: int = 0
    names: dict[str, str] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        if event.get("ph") != "X":
            return
        category, name = event.get("cat"), event.get("name")
        if not isinstance(category, str) or not isinstance(name, str):
            return
        name = self.names.setdefault(
            name, name if name.isascii() else name.encode("utf-8", "replace").decode()
        )
        start, duration = event.get("ts"), event.get("dur", 0)
        category = category.lower()
        arguments = event.get("args")
        if not isinstance(arguments, dict):
            arguments = {}
        correlation = arguments.get("correlation")
        if category in _RUNTIME:
            if isinstance(correlation, int) and _is_time(start):
                self._keep()
                self.launched[correlation] = self._thread(event), float(cast(float, start))
        elif category in _KERNELS or category in _COPIES:
            start, duration = self._times(name, start, duration)
            device, nbytes = arguments.get("device"), arguments.get("bytes")
            op = copy_op(name) if category in _COPIES else None
            size = nbytes if isinstance(nbytes, int) and 0 <= nbytes < 1 << 62 else None
            launch = Launch(start, duration * _US, name, op, size)
            self.gpu_work.append((correlation if isinstance(correlation, int) else -1, launch))
            self.gpu_starts.append(start)
            self.gpu_ends.append(start + duration)
            if isinstance(device, int):
                self.devices[device] = self.devices.get(device, 0.0) + duration
        elif category in _OPERATORS:
            start, duration = self._times(name, start, duration)
            self.operators.ranges[self._thread(event)].append(Range(start, start + duration, name))
        elif category == "python_function" and name.startswith(_MODULE_EVENT):
            start, duration = self._times(name, start, duration)
            instance = name.removeprefix(_MODULE_EVENT)
            self.instances.ranges[self._thread(event)].append(Range(start, start + duration, instance))
        elif category == "user_annotation" and _PATH.fullmatch(name):
            start, duration = self._times(name, start, duration)
            self.annotations.ranges[self._thread(event)].append(Range(start, start + duration, name))

    def _keep(self) -> None:
        self.count += 1
        if self.count > _MAX_KEPT:
            raise CheckpointError(
                f"{self.file.path} holds more than {_MAX_KEPT} kernels and calls", remedy="Record fewer steps"
            )

    def _times(self, name: str, start: object, duration: object) -> tuple[float, float]:
        self._keep()
        if not _is_time(start) or not _is_time(duration) or cast(float, duration) < 0:
            times = f"starts at {str(start)[:40]} and takes {str(duration)[:40]}"
            raise CheckpointError(
                f"{self.file.path}: {name[:200]!r} {times}", expected="times in microseconds"
            )
        begin, length = float(cast(float, start)), float(cast(float, duration))
        self.first, self.last = min(self.first, begin), max(self.last, begin + length)
        return begin, length

    def _thread(self, event: Event) -> Thread:
        return str(event.get("pid")), str(event.get("tid"))


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _read(file: RecordFile) -> RunRecord:
    kept = _Kept(file)
    members = read_events(file, kept.take)
    notes: list[str] = []
    modules = _modules(kept, notes)
    if kept.gpu_work:
        _place_gpu_work(kept, modules, notes)
    else:
        _place_operators(kept, modules)
        notes.append("no GPU kernel was recorded: times are those of torch's operators on the CPU")
    if not any(modules.launches.values()):
        raise CheckpointError(
            f"{file.path} holds neither kernels nor operators",
            expected="a trace of torch.profiler",
            remedy="Profile with activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]",
        )
    phases = Placed()
    for thread, ranges in kept.annotations.ranges.items():
        phases.ranges[thread] = [one for one in ranges if one.name in _PHASES]
    about = _about(members.get("pascaline"))
    tokens, batch = positive(about.get("tokens")), positive(about.get("batch"))
    record = RunRecord(
        kind="imported",
        created=_created(members, kept.first),
        software=_software(members),
        gpu=_gpu(members.get("deviceProperties"), kept.devices),
        cpu=None if kept.gpu_work else Cpu(name="a processor"),
        model=described_model(about),
        tokens=tokens,
        batch=batch,
        elapsed_s=(kept.last - kept.first) * _US,
        gpu_busy_s=busy_s(kept.gpu_starts, kept.gpu_ends) * _US if kept.gpu_work else None,
        rows=rows_of(modules, phases),
        notes=notes,
    )
    return with_work(record)


def _modules(kept: _Kept, notes: list[str]) -> Placed:
    """Ranges of modules by their paths."""
    found = Placed()
    is_named = any("." in one.name for ranges in kept.annotations.ranges.values() for one in ranges)
    if is_named:
        for thread, ranges in kept.annotations.ranges.items():
            found.ranges[thread] = [one for one in ranges if one.name not in _PHASES]
        return found
    parents: dict[str, str | None] = {}
    for ranges in kept.instances.ranges.values():
        for one, around in nested(ranges):
            parents.setdefault(one.name, None if around is None else around.name)
    paths = paths_of(parents)
    for thread, ranges in kept.instances.ranges.items():
        found.ranges[thread] = [Range(one.start, one.end, paths[one.name]) for one in ranges]
    notes.append(
        "modules are named by their classes and the order of their calls"
        if paths
        else "the trace names no modules: record it with_stack=True, or with ranges named by module paths"
    )
    return found


def _place_gpu_work(kept: _Kept, modules: Placed, notes: list[str]) -> None:
    """Kernels and copies at their launches, and what the CPU computed between them."""
    unknown = 0
    calls: dict[Thread, list[float]] = {}
    for correlation, work in kept.gpu_work:
        thread, at = kept.launched.get(correlation, (None, work.at))
        unknown += thread is None
        calls.setdefault(thread, []).append(at)
        modules.launches[thread].append(Launch(at, work.seconds, work.name, work.op, work.nbytes))
    if unknown:
        notes.append(f"{unknown} of {len(kept.gpu_work)} kernels and copies have no recorded launch")
    for thread, ranges in kept.operators.ranges.items():
        heavy = [one for one in ranges if _HEAVY_OPERATORS.match(one.name)]
        launches = sorted(calls.get(thread, ()))
        for one in _without(heavy, launches):
            seconds = (one.end - one.start) * _US
            modules.launches[thread].append(Launch(one.start, seconds, one.name))


def _without(ranges: list[Range], launches: list[float]) -> list[Range]:
    """The ranges that no launch lies in."""
    found, at = [], 0
    for one in sorted(ranges, key=lambda one: one.start):
        while at < len(launches) and launches[at] < one.start:
            at += 1
        if at == len(launches) or launches[at] > one.end:
            found.append(one)
    return found


def _place_operators(kept: _Kept, modules: Placed) -> None:
    """Operators on the CPU: each takes its time less that of the operators that it called."""
    for thread, ranges in kept.operators.ranges.items():
        inner: dict[int, float] = {}
        pairs = list(nested(ranges))
        for one, around in pairs:
            if around is not None:
                inner[id(around)] = inner.get(id(around), 0.0) + one.end - one.start
        modules.launches[thread] = [
            Launch(one.start, max(0.0, one.end - one.start - inner.get(id(one), 0.0)) * _US, one.name)
            for one, _ in pairs
        ]


def _about(added: object) -> Mapping[str, object]:
    """What the user added; torch writes it as JSON, or as a text of JSON."""
    if isinstance(added, str):
        try:
            added = json.loads(added)
        except (ValueError, RecursionError):
            return {}
    return added if isinstance(added, dict) else {}


def _created(members: Mapping[str, Any], first: float) -> str | None:
    base = members.get("baseTimeNanoseconds")
    if not isinstance(base, int) or not math.isfinite(first) or not 0 < base < 1 << 62:
        return None
    try:
        return datetime.fromtimestamp(base * 1e-9 + first * _US, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


def _software(members: Mapping[str, Any]) -> dict[str, str]:
    """CUDA's versions, which it writes as 12060."""
    versions = {
        "cuda_runtime": members.get("cuda_runtime_version"),
        "cuda_driver_api": members.get("cuda_driver_version"),
    }
    return {
        name: f"{version // 1000}.{version % 1000 // 10}"
        for name, version in versions.items()
        if isinstance(version, int) and 0 < version < 1_000_000
    }


def _gpu(properties: object, devices: Mapping[int, float]) -> Gpu | None:
    """The device that computed longest."""
    busiest = max(devices, key=lambda device: devices[device], default=0)
    for one in properties if isinstance(properties, list) else ():
        if isinstance(one, dict) and one.get("id") == busiest and isinstance(one.get("name"), str):
            major, minor = one.get("computeMajor"), one.get("computeMinor")
            memory = one.get("totalGlobalMem")
            is_known = isinstance(major, int) and isinstance(minor, int)
            return Gpu(
                name=one["name"],
                compute_capability=f"{major}.{minor}" if is_known else None,
                memory_gib=memory / 2**30 if isinstance(memory, int) and 0 < memory < 1 << 50 else None,
            )
    return None


IMPORTER = Importer(kind="a trace of torch.profiler", recognises=is_trace, read=_read)
