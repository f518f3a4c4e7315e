"""Progress on stderr: bars on a terminal, a line per stage elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from pascaline.core.progress import Progress
from pascaline.core.units import format_bytes, format_seconds

QUIET_BELOW_S = 2.0
"""Without a terminal, stages that are expected to be shorter are not worth a line."""


class ProgressBars:
    """Context manager; the object itself is the callback.

    >>> with ProgressBars() as report:
    ...     LLM("demo", report=report)
    """

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[time]}"),
            console=Console(stderr=True),
            transient=True,
            disable=not self._on_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: set[str] = set()

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away; closing again is fine."""
        self._bars.stop()

    def __call__(self, progress: Progress) -> None:
        if self._on_terminal:
            self._draw(progress)
        else:
            self._say(progress)

    def _draw(self, progress: Progress) -> None:
        time = format_seconds(progress.elapsed_s)
        if progress.expected_s is not None and not progress.finished:
            time += f" of about {format_seconds(progress.expected_s)}"
        task = self._tasks.get(progress.stage)
        if task is None:
            task = self._bars.add_task(progress.stage, amount="", time="")
            self._tasks[progress.stage] = task
        self._bars.update(
            task,
            total=progress.total or None,
            completed=progress.done,
            amount=_amount(progress),
            time=time,
        )

    def _say(self, progress: Progress) -> None:
        if progress.finished:
            if progress.stage in self._said:
                ended = "stopped after" if progress.failed else "done in"
                sys.stderr.write(f"{progress.stage}: {ended} {format_seconds(progress.elapsed_s)}\n")
        elif progress.stage not in self._said and (progress.expected_s or 0.0) >= QUIET_BELOW_S:
            self._said.add(progress.stage)
            expected = format_seconds(progress.expected_s or 0.0)
            sys.stderr.write(f"{progress.stage}: {_amount(progress)}, about {expected}\n")
        sys.stderr.flush()


def _amount(progress: Progress) -> str:
    if progress.unit == "bytes":
        return f"{format_bytes(progress.done)} of {format_bytes(progress.total)}"
    return f"{progress.done:.0f} of {progress.total:.0f} {progress.unit}"
