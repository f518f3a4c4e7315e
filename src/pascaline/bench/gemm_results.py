"""What `bench gemm` found, as JSON, as a run record, and as the rates that the planner reads."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

import torch

from pascaline.bench.gemm import GemmReport, GemmRow
from pascaline.hardware.measured import LinearRates, MeasuredRates, save_measured, software_here
from pascaline.kernels.cpu import native
from pascaline.report.run_record import Cpu, Gpu, RecordedKernel, Row, RunRecord, write_record


def as_json(report: GemmReport, saved: tuple[Path, Path] | None) -> dict[str, object]:
    """The object that `--json` prints; `saved` is what `save` returned."""
    rates, record = map(str, saved) if saved else (None, None)
    return {
        "device": report.device,
        "name": report.name,
        "clock_mhz_measured": report.clock_mhz,
        "threads": report.threads,
        "shapes": [[shape.m, shape.n, shape.k] for shape in report.shapes],
        "rows": [_row_as_json(row) for row in report.rows],
        "limits": {"operations_per_s": dict(report.operations_per_s), "bytes_per_s": report.bytes_per_s},
        "saved": rates,
        "record": record,
        "notes": list(report.notes),
    }


def _row_as_json(row: GemmRow) -> dict[str, object]:
    timing = row.timing
    return {
        "precision": row.precision,
        "storage": row.storage,
        "arithmetic": row.arithmetic,
        "algorithm": row.algorithm,
        "m": row.shape.m,
        "n": row.shape.n,
        "k": row.shape.k,
        "median_s": None if timing is None else timing.median_s,
        "spread": None if timing is None else timing.spread,
        "rounds": None if timing is None else timing.rounds,
        "clock_mhz": None if timing is None else timing.clock_mhz,
        "tflops": row.tflops,
        "bytes_per_s": row.bytes_per_s,
        "bytes_per_weight": row.bytes_per_weight,
        "share_of_limit": row.share_of_limit,
        "share_of_best_library": row.share_of_best_library,
        "limit_tflops": row.limit_tflops,
        "bound_by": row.bound_by,
        "note": row.note,
    }


def save(report: GemmReport) -> tuple[Path, Path]:
    """Write both files; returns where the rates are, and where the record is.

    Raises
    ------
    ConfigError : the cache folder cannot be written.
    """
    rates = save_measured(as_rates(report))
    record = rates.with_name(f"{rates.stem}-gemm-record.json")
    write_record(as_record(report), record)
    return rates, record


def as_rates(report: GemmReport) -> MeasuredRates:
    """What the planner and the policy read."""
    best: dict[str, float] = {}
    points: dict[str, dict[int, GemmRow]] = {}
    for row in report.rows:
        if row.timing is None or row.tflops is None:
            continue
        if row.is_library:
            best[row.arithmetic] = max(best.get(row.arithmetic, 0.0), row.tflops * 1e12)
        elif row.note is None:
            of_form = points.setdefault(row.storage, {})
            larger = of_form.get(row.shape.m)
            if larger is None or larger.shape.n * larger.shape.k < row.shape.n * row.shape.k:
                of_form[row.shape.m] = row
    return MeasuredRates(
        name=report.name,
        kind=report.device,
        clock_mhz=report.clock_mhz,
        operations_per_s=report.operations_per_s,
        library_operations_per_s=best,
        bytes_per_s=report.bytes_per_s,
        linears={form: _linear(of_form) for form, of_form in points.items()},
        threads=report.threads,
        created=_now(),
        software=software_here(report.device),
    )


def _linear(rows: dict[int, GemmRow]) -> LinearRates:
    """One form's rows, by M."""
    ordered = [rows[m] for m in sorted(rows)]
    return LinearRates(
        arithmetic=ordered[0].arithmetic,
        bytes_per_weight=ordered[0].bytes_per_weight or 0.0,
        rows=tuple(
            (row.shape.m, row.timing.median_s / (row.shape.n * row.shape.k))
            for row in ordered
            if row.timing is not None
        ),
    )


def as_record(report: GemmReport) -> RunRecord:
    """A run record of kind "bench": a row a product, named by its precision and shape."""
    library = native.library()
    is_gpu = report.device == "cuda"
    return RunRecord(
        kind="bench",
        created=_now(),
        software={**software_here(report.device), "python": platform.python_version()},
        gpu=_gpu(report) if is_gpu else None,
        cpu=None
        if is_gpu
        else Cpu(
            name=report.name,
            threads=report.threads,
            instruction_sets=[] if isinstance(library, str) else [library.name],
            read_gb_per_s_measured=None if report.bytes_per_s is None else report.bytes_per_s / 1e9,
        ),
        rows=[_record_row(row) for row in report.rows if row.timing is not None],
        notes=[*report.notes, *(f"{_name(row)}: {row.note}" for row in report.rows if row.note)],
    )


def _gpu(report: GemmReport) -> Gpu:
    major, minor = torch.cuda.get_device_capability()
    return Gpu(
        name=report.name,
        compute_capability=f"{major}.{minor}",
        memory_gib=torch.cuda.get_device_properties(0).total_memory / 2**30,
        driver=software_here("cuda").get("driver"),
        clock_mhz_measured=report.clock_mhz,
    )


def _name(row: GemmRow) -> str:
    return f"{row.precision} {row.shape}"


def _record_row(row: GemmRow) -> Row:
    median_s = 0.0 if row.timing is None else row.timing.median_s
    share = row.share_of_limit
    return Row(
        module=_name(row),
        op="gemm",
        measured_s=median_s,
        bound_s=None if share is None else median_s * share,
        bound_by=row.bound_by,
        flop_by_type={row.arithmetic: row.shape.operations},
        bytes=None if row.bytes_per_s is None else round(row.bytes_per_s * median_s),
        kernels=[RecordedKernel(name=row.algorithm, calls=1, s=median_s)],
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
