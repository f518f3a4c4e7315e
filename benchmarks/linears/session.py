"""Measurements by a worker process that is started anew, without the culprit, whenever a kernel ends it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.json_lines import Worker, WorkerError

from linears.graph_timer import ALL_WAYS

_MOST_S = 90.0
"""A case takes some seconds, compiling included: what takes longer hangs."""

_LIBRARY = "libvllm_linears.so"
_NOT_WAYS = ("start", "compiling", ALL_WAYS)


class Session:
    """Use as a context manager; raises `WorkerError` where there is no card at all."""

    def __init__(self, peers: Path) -> None:
        self._library = (peers / _LIBRARY).resolve()
        descriptor, name = tempfile.mkstemp(prefix="linears-")
        os.close(descriptor)
        self._announcements = Path(name)
        self._worker: Worker | None = None
        self._skip: set[str] = set()
        self.hello: dict[str, Any] = {}

    def __enter__(self) -> Session:
        self.hello = self._started().hello
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        self._announcements.unlink(missing_ok=True)

    def rates(self) -> dict[str, Any]:
        """Of the card's arithmetic."""
        return self._ask("rates", {})

    def compare(self, shape: str, rows: int) -> dict[str, Any]:
        """All sides at one shape and M."""
        return self._measured("compare", {"shape": shape, "rows": rows})

    def sweep(self, shape: str, rows: int, family: str) -> dict[str, Any]:
        """All candidates of a family of kernels."""
        return self._measured("sweep", {"shape": shape, "rows": rows, "family": family})

    def dense(self, shape: str, rows: int, *, is_sweep: bool) -> dict[str, Any]:
        """A dense weight, in fp16."""
        return self._measured("dense", {"shape": shape, "rows": rows, "is_sweep": is_sweep})

    def format(self, shape: str, name: str, family: str | None = None) -> dict[str, Any]:
        """Another form of weights; with all candidates of `family`."""
        return self._measured("format", {"shape": shape, "format": name, "family": family})

    def _measured(self, what: str, case: dict[str, Any]) -> dict[str, Any]:
        """An answer, with whatever breaks the worker left out of the next try and reported."""
        broken: dict[str, str] = {}
        while True:
            answer = self._ask(what, case | {"skip": sorted(self._skip)})
            culprit = answer.get("culprit")
            if "reason" not in answer:
                return case | answer | {"failed": answer["failed"] | broken}
            if culprit is None or culprit in _NOT_WAYS or culprit in broken:
                failed = broken | {culprit or what: answer["reason"]}
                return case | {"ways": {}, "clocks_mhz": [], "failed": failed}
            broken[culprit] = answer["reason"]
            self._skip.add(culprit)

    def _ask(self, what: str, given: dict[str, Any]) -> dict[str, Any]:
        worker = self._started()
        watchdog = threading.Timer(_MOST_S, os.kill, (worker.pid, signal.SIGKILL))
        watchdog.start()
        try:
            answer = worker.ask(what, **given)
        except (WorkerError, BrokenPipeError) as error:
            answer = {"culprit": self._announcements.read_text(), "reason": f"ended or hung: {error}"}
        finally:
            watchdog.cancel()
        if answer.get("culprit"):  # the context is lost
            print(f"{answer['culprit']}: {answer['reason']}; starting anew", file=sys.stderr, flush=True)
            self._end()
        return answer

    def _started(self) -> Worker:
        if self._worker is None:
            arguments = (str(self._library), str(self._announcements))
            path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            absolute = os.pathsep.join(str(Path(each).resolve()) for each in path if each)
            self._worker = Worker(
                sys.executable, "linears_worker", *arguments, environment={"PYTHONPATH": absolute}
            )
        return self._worker

    def _end(self) -> None:
        if self._worker is not None:
            with self._worker:
                pass
            self._worker = None
