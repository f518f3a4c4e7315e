"""A recorded run as rules see it: rows with their times, and what each stands for in the whole model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pascaline.core.errors import CheckpointError
from pascaline.diagnose.chip import Chip
from pascaline.diagnose.finding import BETWEEN_ROWS, Saving
from pascaline.diagnose.sibling_layers import layer_scales
from pascaline.report.infer_work import recorded_work
from pascaline.report.run_record import RecordedKernel, Row, RunRecord

_MAX_S = 1e9
_LEAST_S = 1e-12
"""No clock tells less."""
MOST_WORK = 1e30
"""FLOP or bytes of any run; what is above was not counted but made up."""
_MOST_TOKENS = 1 << 40


@dataclass(frozen=True)
class MeasuredRow:
    """A row that holds time of its own, and what it stands for.

    Parameters
    ----------
    index : its position in the record.
    s : recorded time that no stronger cause took; `whole_s` : with sibling layers that were not recorded.
    layers_per_recorded : by this its FLOP and bytes are multiplied to have the siblings' with them.
    kernels : those that no stronger cause took.
    """

    index: int
    row: Row
    s: float
    whole_s: float
    layers_per_recorded: float
    kernels: tuple[RecordedKernel, ...]

    @property
    def whole_flop(self) -> float | None:
        """Arithmetic operations, siblings included; None where the record does not say."""
        flop = sum(self.row.flop_by_type.values())
        return flop * self.layers_per_recorded if 1 <= flop < MOST_WORK else None

    @property
    def whole_bytes(self) -> float | None:
        """Bytes that cross the memory bus, siblings included; None where the record does not say."""
        moved = self.row.bytes or 0
        return moved * self.layers_per_recorded if 0 < moved < MOST_WORK else None

    @property
    def decision(self) -> str:
        """What the engine chose, in its words."""
        decision = self.row.decision
        return f"{decision.choice} {decision.reason}" if decision else ""

    def share_of(self, kernels: Iterable[RecordedKernel]) -> float:
        """The share of the row's time that some of its kernels take.

        Kernels that ran side by side, or were timed apart, can add up to more than their row.
        """
        of_row = max(self.s, sum(kernel.s or 0.0 for kernel in self.kernels))
        return sum(kernel.s or 0.0 for kernel in kernels) / of_row if of_row > 0 else 0.0

    def whole_kernel_s(self, kernel: RecordedKernel) -> float:
        """A kernel's time, siblings included."""
        return self.whole_s * self.share_of([kernel])

    @property
    def is_linear(self) -> bool:
        return self.row.op == "linear"

    def without(self, savings: Iterable[Saving]) -> MeasuredRow | None:
        """What is left when stronger causes took their kernels, or None when they took it whole."""
        taken = {saving.kernel for saving in savings}
        if None in taken:
            return None
        left = 1.0 - self.share_of(kernel for kernel in self.kernels if kernel.name in taken)
        kernels = tuple(kernel for kernel in self.kernels if kernel.name not in taken) if left > 0 else ()
        return replace(self, s=self.s * left, whole_s=self.whole_s * left, kernels=kernels)


@dataclass(frozen=True)
class Run:
    """Everything that rules may look at.

    Parameters
    ----------
    rows : with time left to explain; containers of other rows are not among them.
    total_s : of the run; 0 where nothing was measured.
    rows_s : of it, the time that rows account for, whatever explains it.
    between_rows_taken : a stronger cause explains the time that no row accounts for.
    """

    record: RunRecord
    chip: Chip | None
    rows: tuple[MeasuredRow, ...]
    total_s: float
    rows_s: float = 0.0
    between_rows_taken: bool = False

    def without(self, savings: Sequence[Saving]) -> Run:
        """The run that weaker causes may explain."""
        by_row: dict[int, list[Saving]] = {}
        for saving in savings:
            by_row.setdefault(saving.row, []).append(saving)
        rows = tuple(
            left
            for row in self.rows
            if (left := row.without(by_row[row.index]) if row.index in by_row else row) is not None
        )
        return replace(self, rows=rows, between_rows_taken=self.between_rows_taken or BETWEEN_ROWS in by_row)

    @property
    def linears(self) -> tuple[MeasuredRow, ...]:
        return tuple(row for row in self.rows if row.is_linear)

    @property
    def kernels(self) -> tuple[tuple[MeasuredRow, RecordedKernel], ...]:
        """Every kernel with its row."""
        return tuple((row, kernel) for row in self.rows for kernel in row.kernels)

    @property
    def step_tokens(self) -> int | None:
        """Tokens of all sequences; None where the record does not say."""
        tokens = recorded_work(self.record) or 0
        return tokens if 0 < tokens < _MOST_TOKENS else None

    @property
    def quantization(self) -> dict[str, object]:
        """The checkpoint's quantisation settings, whatever they are called; empty if there are none."""
        for name in ("quantization_config", "quantization"):
            settings = self.record.model.get(name)
            if isinstance(settings, dict):
                return settings
        return {}

    def note_with(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The first note that a pattern is in."""
        return next((match for note in self.record.notes if (match := pattern.search(note))), None)


def measured_run(record: RunRecord, chip: Chip | None) -> Run:
    """Find the rows that hold time of their own, and how much of the model each stands for.

    Raises
    ------
    CheckpointError : a time is negative, or longer than any run; a module's path is too deep.
    """
    _check_times(record)
    times = [_time(row) for row in record.rows]
    scales = layer_scales(record, times)
    rows = tuple(
        MeasuredRow(
            index=index,
            row=row,
            s=time,
            whole_s=time * scales.time[index],
            layers_per_recorded=scales.layers[index],
            kernels=_kernels(row) if time > 0 else (),
        )
        for index, (row, time) in enumerate(zip(record.rows, times, strict=True))
        if time is not None and index in scales.leaves
    )
    return Run(
        record=record,
        chip=chip,
        rows=rows,
        total_s=max(scales.total_s, record.elapsed_s or 0.0),
        rows_s=sum(row.whole_s for row in rows),
    )


def _check_times(record: RunRecord) -> None:
    times = [(row.module or row.op, s) for row in record.rows for s in _times(row)]
    for name, s in (*times, ("the run", record.elapsed_s), ("the GPU", record.gpu_busy_s)):
        if s is not None and not 0.0 <= s <= _MAX_S:
            raise CheckpointError(f"the record says that {name!r} took {s:g} s", expected="a run's time")


def _times(row: Row) -> tuple[float | None, ...]:
    return (row.measured_s, *(kernel.s for kernel in row.kernels))


def _kernels(row: Row) -> tuple[RecordedKernel, ...]:
    return tuple(kernel for kernel in row.kernels if kernel.s is None or kernel.s >= _LEAST_S)


def _time(row: Row) -> float | None:
    known = [kernel.s for kernel in row.kernels if kernel.s is not None]
    time = row.measured_s if row.measured_s is not None else sum(known) if known else None
    return 0.0 if time is not None and time < _LEAST_S else time
