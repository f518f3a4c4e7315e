"""Measurements on a card by a worker process, started anew without the culprit when a kernel ends it."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.json_lines import Answer, Worker, WorkerError, serve

_MOST_S = 90.0
"""A case takes some seconds, compiling included: what takes longer hangs."""

_START = "start"


class PoisonedError(Exception):
    """The card's context is lost: what follows would fail whatever it is. `culprit` is the way's name."""

    def __init__(self, culprit: str, reason: str) -> None:
        super().__init__(f"{culprit}: {reason}")
        self.culprit = culprit
        self.reason = reason


class CardSession:
    """Use as a context manager; raises `WorkerError` where there is no card at all.

    Parameters
    ----------
    worker : module of the harness, whose last argument is a file that it keeps naming in what it runs
        (`serve_measurements`).
    not_ways : names that it announces of what is nobody's fault.
    environment : variables that it gets besides those that this process was started with.
    """

    def __init__(
        self,
        worker: str,
        *arguments: str,
        not_ways: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        descriptor, name = tempfile.mkstemp(prefix="card-session-")
        os.close(descriptor)
        self._announcements = Path(name)
        self._module = worker
        self._arguments = (*arguments, name)
        self._not_ways = {_START, *not_ways}
        self._environment = dict(environment or {})
        self._worker: Worker | None = None
        self._skip: set[str] = set()
        self.hello: dict[str, Any] = {}

    def __enter__(self) -> Self:
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

    def ask(self, what: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """An answer, or {"culprit", "reason"}: a culprit's worker is gone."""
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

    def measured(self, what: str, case: dict[str, Any]) -> dict[str, Any]:
        """An answer, with whatever breaks the worker left out of the next try and reported as "failed"."""
        broken: dict[str, str] = {}
        while True:
            answer = self.ask(what, case | {"skip": sorted(self._skip)})
            culprit = answer.get("culprit")
            if "reason" not in answer:
                return case | answer | {"failed": answer["failed"] | broken}
            if culprit is None or culprit in self._not_ways or culprit in broken:
                failed = broken | {culprit or what: answer["reason"]}
                return case | {"ways": {}, "clocks_mhz": [], "failed": failed}
            broken[culprit] = answer["reason"]
            self._skip.add(culprit)

    def _started(self) -> Worker:
        if self._worker is None:
            path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            absolute = os.pathsep.join(str(Path(each).resolve()) for each in path if each)
            self._worker = Worker(
                sys.executable,
                self._module,
                *self._arguments,
                environment={"PYTHONPATH": absolute, **self._environment},
            )
        return self._worker

    def _end(self) -> None:
        if self._worker is not None:
            with self._worker:
                pass
            self._worker = None


def serve_measurements(
    answers: Mapping[str, Callable[..., Answer]], hello: Mapping[str, object] = {}
) -> None:
    """The worker's side; says which card this is, and `hello`; answers also where something fails.

    Raises
    ------
    SystemExit : there is no card.
    """
    import torch  # the session's own side does without

    if not torch.cuda.is_available():
        raise SystemExit("there is no card here that torch can use; `pascaline doctor` says why")
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    card = {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "torch": str(torch.__version__),
    }
    serve({**card, **(hello or {})}, {name: _guarded(answer) for name, answer in answers.items()})


def announcing(file: str) -> Callable[[str], None]:
    """What a worker calls with the name of what it is about to run."""
    announcements = Path(file)
    announcements.write_text(_START)

    def announce(what: str) -> None:
        announcements.write_text(what)

    return announce


def _guarded(answer: Callable[..., Answer]) -> Callable[..., Answer]:
    """An answer also where something fails: "culprit" is None where the context still works."""

    def guarded(**given: object) -> Answer:
        try:
            return answer(**given)
        except PoisonedError as error:
            return {"culprit": error.culprit, "reason": error.reason}
        except Exception as error:
            return {"culprit": None, "reason": f"{type(error).__name__}: {error}"}

    return guarded
