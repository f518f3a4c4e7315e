"""Matrix products by precision and algorithm, against what the chip and the best library can do."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from pascaline.bench.machine import Machine, machine_for
from pascaline.bench.product import Backend, Path, Product, Shape, WrongProductError, check
from pascaline.bench.timing import Timing, alternate
from pascaline.core.errors import ConfigError, OutOfMemoryError, UnsupportedError
from pascaline.core.progress import ProgressCallback, Stage
from pascaline.core.units import format_bytes, format_seconds

DEFAULT_SHAPES: Mapping[Backend, tuple[Shape, ...]] = {
    "cpu": tuple(Shape(m, 4096, 4096) for m in (1, 4, 16, 64, 512)),
    "cuda": (
        *(Shape(m, 4096, 4096) for m in (1, 16, 512)),
        Shape(4352, 4096, 4096),
        Shape(1, 37888, 3584),
        Shape(2048, 37888, 3584),
    ),
}
"""Decode and prefill of 7B models; gate and up projections of Qwen2.5-7B are the last two."""

DECODE_ROWS = 64
"""Up to so many rows, weights are to come from memory: a model's others are multiplied by in between."""
TIMES_THE_CACHE = 2
"""So many bytes of weights no cache keeps."""
MOST_COPIES = 256
CUT_COLUMNS = 256
MOST_S = 4.0
"""What a single product may take; of slower ones, `CUT_COLUMNS` columns are timed."""
PROBES = 3
SMALL_OPERATIONS = 1e9
"""Products of fewer are tried whole."""
SETTING_UP_S = 5.0
"""What making operands and checking products takes a shape, roughly."""
SEED = 20
WIDEST_BYTES = 8
"""A number's, of any path: for a bound on memory."""
SHARE_OF_MEMORY = 0.5
BEYOND = 1.05
"""A share of a limit that no measuring error explains."""
BEYOND_WHY = "another unit did it (tensor cores of some data-centre cards multiply fp64), or a cache helped"


@dataclass(frozen=True)
class GemmRow:
    """One path at one shape; times and rates are None where it was not timed, and `note` says why.

    Parameters
    ----------
    arithmetic : the unit that multiplies.
    spread : from the first to the third quartile of the rounds, as a share of the median.
    limit_tflops : the most that the chip can do at this shape: `bound_by` compute, at the clock measured
        during the run, or memory, where each operand crosses the bus once.
    share_of_best_library : of the fastest torch or numpy product of this shape, in whatever precision.
    bytes_per_weight : that the storage takes.
    """

    precision: str
    storage: str
    arithmetic: str
    algorithm: str
    is_library: bool
    shape: Shape
    timing: Timing | None = None
    bytes_per_s: float | None = None
    bytes_per_weight: float | None = None
    limit_tflops: float | None = None
    bound_by: Literal["compute", "memory"] | None = None
    share_of_best_library: float | None = None
    note: str | None = None

    @property
    def tflops(self) -> float | None:
        """10¹² operations a second, of integers too."""
        return None if self.timing is None else self.shape.operations / self.timing.median_s / 1e12

    @property
    def share_of_limit(self) -> float | None:
        """Of `limit_tflops`."""
        return None if self.tflops is None or self.limit_tflops is None else self.tflops / self.limit_tflops


@dataclass(frozen=True)
class GemmReport:
    """All rows, and what the chip could do.

    Parameters
    ----------
    clock_mhz : median of all rounds'.
    operations_per_s : limits by unit, each at the median clock of the rows that it bounds, else `clock_mhz`:
        a card under power limits slows down for its tensor cores, and not for fp32.
    bytes_per_s : of memory.
    """

    device: Backend
    name: str
    threads: int | None
    clock_mhz: float | None
    shapes: tuple[Shape, ...]
    rows: tuple[GemmRow, ...]
    operations_per_s: Mapping[str, float]
    bytes_per_s: float | None
    notes: tuple[str, ...]


def bench_gemm(device: torch.device, shapes: Sequence[Shape] | None, report: ProgressCallback) -> GemmReport:
    """Measure every path of the device by all shapes, or by the default ones.

    Raises
    ------
    ConfigError : not a single product of these shapes could be measured.
    """
    machine = machine_for(device)
    wanted = tuple(dict.fromkeys(shapes or DEFAULT_SHAPES[machine.kind]))
    paths = machine.paths()
    rows: list[GemmRow] = []
    rates: list[float] = []
    expected_s = len(wanted) * (machine.shape_s + SETTING_UP_S)
    with Stage(report, "measuring products", 2 * len(wanted) * len(paths), "steps", expected_s) as stage:
        for shape in wanted:
            found, seen = _measure(shape, paths, machine, stage)
            rows += found
            rates += seen
    if all(row.timing is None for row in rows):
        raise ConfigError(f"no product could be measured: {rows[0].note}", remedy="Give another --shape")
    clock_mhz = _clock_mhz(rows)
    return GemmReport(
        device=machine.kind,
        name=machine.name,
        threads=machine.threads,
        clock_mhz=clock_mhz,
        shapes=wanted,
        rows=tuple(rows),
        operations_per_s={
            unit: machine.operations_per_s(_clock_mhz(_bounded_by(unit, rows)) or clock_mhz)[unit]
            for unit in machine.operations_per_s(clock_mhz)
        },
        bytes_per_s=statistics.median(rates) if rates else None,
        notes=tuple(machine.notes()),
    )


def _clock_mhz(rows: Sequence[GemmRow]) -> float | None:
    """The median of what was read beside them."""
    clocks = [row.timing.clock_mhz for row in rows if row.timing and row.timing.clock_mhz]
    return statistics.median(clocks) if clocks else None


def _bounded_by(unit: str, rows: Sequence[GemmRow]) -> list[GemmRow]:
    return [row for row in rows if row.arithmetic == unit and row.bound_by == "compute"]


def _measure(
    shape: Shape, paths: Sequence[Path], machine: Machine, stage: Stage
) -> tuple[list[GemmRow], list[float]]:
    """Rows of one shape, and what memory gave beside them; all its operands are there at once."""
    candidates = [_candidate(path, shape, machine, stage) for path in paths]
    runs = [each.product.run for each in candidates if isinstance(each, _Ready)]
    if runs:
        machine.warm(runs[0])
    timings, rates = alternate(runs, machine, machine.shape_s, lambda: stage.advance(1))
    return _rows(candidates, timings, machine, max(rates, default=None)), rates


@dataclass(frozen=True)
class _Ready:
    """A product that was found right; `shape` is cut where the whole would take too long."""

    path: Path
    shape: Shape
    product: Product
    note: str | None


@dataclass(frozen=True)
class _Refused:
    path: Path
    shape: Shape
    note: str


def _candidate(path: Path, shape: Shape, machine: Machine, stage: Stage) -> _Ready | _Refused:
    """The product, made and checked, or in words why not."""
    try:
        return _make(path, shape, machine)
    except (WrongProductError, UnsupportedError, OutOfMemoryError) as error:
        return _Refused(path, shape, str(error))
    except RuntimeError as error:  # torch's, for what a chip or this build of it lacks
        return _Refused(path, shape, f"torch: {str(error).strip().splitlines()[0]:.120}")
    finally:
        stage.advance(1)


def _make(path: Path, shape: Shape, machine: Machine) -> _Ready:
    generator = torch.Generator().manual_seed(SEED)
    few = replace(shape, n=min(shape.n, CUT_COLUMNS))
    _refuse_unless_fits(machine, shape.m * (shape.k + shape.n) + few.n * shape.k, 0.0)
    probe = path.make(few, 1, generator)
    note = None
    if shape.operations > SMALL_OPERATIONS:
        probed_s = min(machine.time(probe.run, 1, 0.0).seconds for _ in range(PROBES))
        whole_s = probed_s * shape.n / few.n
        if whole_s > MOST_S:
            note = f"{few.n} of {shape.n} columns: all would take about {format_seconds(whole_s)}"
            shape = few
    weights = shape.n * shape.k
    copies = 1
    if shape.m <= DECODE_ROWS:
        copies = math.ceil(TIMES_THE_CACHE * machine.cache_bytes / (weights * probe.bytes_per_weight))
        copies = min(copies, MOST_COPIES)
    # One copy more, and the random numbers that it is made from.
    weights_bytes = weights * (probe.bytes_per_weight * (copies + 1) + WIDEST_BYTES)
    _refuse_unless_fits(machine, shape.m * (shape.k + shape.n), weights_bytes)
    product = path.make(shape, copies, generator)
    check(product)
    return _Ready(path, shape, product, note)


def _refuse_unless_fits(machine: Machine, numbers: int, weights_bytes: float) -> None:
    """OutOfMemoryError where so many numbers, twice, and weights take more than their share of memory."""
    needed, free = numbers * 2 * WIDEST_BYTES + weights_bytes, machine.free_bytes() * SHARE_OF_MEMORY
    if needed > free:
        raise OutOfMemoryError(
            f"its operands take up to {format_bytes(needed)}", expected=f"at most {format_bytes(free)}"
        )


def _rows(
    candidates: Sequence[_Ready | _Refused],
    timings: Sequence[Timing],
    machine: Machine,
    bytes_per_s: float | None,
) -> list[GemmRow]:
    """Rows of one shape, in the order of the paths."""
    left = iter(timings)
    rows = [
        _row(each, next(left), machine, bytes_per_s)
        if isinstance(each, _Ready)
        else _unmeasured(each, machine.operations_per_s(None))
        for each in candidates
    ]
    best = max((row.tflops for row in rows if row.is_library and row.tflops), default=None)
    if best is None:
        return rows
    return [
        row if row.tflops is None else replace(row, share_of_best_library=row.tflops / best) for row in rows
    ]


def _row(ready: _Ready, timing: Timing, machine: Machine, bytes_per_s: float | None) -> GemmRow:
    product = ready.product
    timing = replace(timing, median_s=timing.median_s / product.products)
    limits = machine.operations_per_s(timing.clock_mhz)
    row = replace(
        _unmeasured(ready, limits),
        timing=timing,
        bytes_per_s=product.moved_bytes / timing.median_s,
        bytes_per_weight=product.bytes_per_weight,
    )
    if row.arithmetic not in limits or bytes_per_s is None:
        return row
    compute_s = ready.shape.operations / limits[row.arithmetic]
    memory_s = product.moved_bytes / bytes_per_s
    bound_s = max(compute_s, memory_s)
    row = replace(
        row,
        limit_tflops=ready.shape.operations / bound_s / 1e12,
        bound_by="compute" if compute_s > memory_s else "memory",
    )
    if row.note is None and (row.share_of_limit or 0.0) > BEYOND:
        return replace(row, note=f"beyond the limit known for {row.arithmetic}: {BEYOND_WHY}")
    return row


def _unmeasured(candidate: _Ready | _Refused, limits: Mapping[str, float]) -> GemmRow:
    path = candidate.path
    return GemmRow(
        precision=path.precision,
        storage=path.storage,
        arithmetic=next((unit for unit in path.units if unit in limits), path.units[-1]),
        algorithm=path.algorithm,
        is_library=path.is_library,
        shape=candidate.shape,
        note=candidate.note,
    )
