"""Progress of long work, with the time it is expected to take.

Work reports through a callback and never prints; the command line draws bars, the engine process
sends the same records to its client.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` (in `unit`, "bytes" or a plural noun) after `elapsed_s`.

    `expected_s` is the expected duration of the whole stage, None while nothing is known;
    `finished` is set on a stage's last report, `failed` too where the stage was broken off.
    """

    stage: str
    done: float
    total: float
    unit: str
    elapsed_s: float
    expected_s: float | None
    finished: bool = False
    failed: bool = False


ProgressCallback = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """Callback for callers that show nothing."""


class Stage:
    """Context manager that counts one long step and reports it at most ten times a second.

    Parameters
    ----------
    report : receives the `Progress` records; always one at the start and one at the end.
    total, unit : the amount of work. `total` may be set later, when it becomes known.
    expected_s : expected duration, if there is a prediction before any work is done;
        from a hundredth of the work on, the measured rate takes over.
    """

    MIN_INTERVAL_S = 0.1
    MEASURED_FROM = 0.01
    """Share of the work: less is as slow as whatever came before it, a connection say."""

    def __init__(
        self, report: ProgressCallback, stage: str, total: float, unit: str, expected_s: float | None = None
    ) -> None:
        self.total = total
        self._report = report
        self._stage = stage
        self._unit = unit
        self._predicted_s = expected_s
        self._done = 0.0
        self._start = time.monotonic()
        self._last = float("-inf")

    def __enter__(self) -> Stage:
        self._emit(finished=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._emit(finished=True, failed=kind is not None)

    def advance(self, amount: float) -> None:
        """Count `amount` more units as done."""
        self._done += amount
        if time.monotonic() - self._last >= self.MIN_INTERVAL_S:
            self._emit(finished=False)

    def _emit(self, *, finished: bool, failed: bool = False) -> None:
        now = time.monotonic()
        self._last = now
        elapsed_s = now - self._start
        expected_s = self._predicted_s
        if finished:
            expected_s = elapsed_s
        elif self.total > 0 and self._done >= self.MEASURED_FROM * self.total:
            expected_s = elapsed_s * self.total / self._done
        self._report(
            Progress(self._stage, self._done, self.total, self._unit, elapsed_s, expected_s, finished, failed)
        )


class StageTimes:
    """A `ProgressCallback` that passes all on, and keeps what each stage was expected to take and took."""

    def __init__(self, report: ProgressCallback) -> None:
        self._report = report
        self._expected_s: dict[str, float | None] = {}
        self.stages: list[tuple[str, float | None, float]] = []
        """(name, expected_s as it began, seconds), in the order of their ends."""

    def __call__(self, progress: Progress) -> None:
        expected_s = self._expected_s.setdefault(progress.stage, progress.expected_s)
        if progress.finished:
            del self._expected_s[progress.stage]
            self.stages.append((progress.stage, expected_s, progress.elapsed_s))
        self._report(progress)
