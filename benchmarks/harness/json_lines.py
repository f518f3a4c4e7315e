"""Worker processes that answer requests: one JSON object a line, over stdin and stdout.

A worker loads once and measures on request, so that loading is in no figure and the sides of a
comparison can take turns. Standard library only: a peer's Python imports this, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

Answer = dict[str, Any]
BENCHMARKS = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """A worker ended without an answer; its own message is on stderr."""


class Worker:
    """`python -m harness.<module> arguments…`, started and greeted; use as a context manager.

    `hello` is the worker's first line, sent when it is ready. `environment` holds variables that the
    worker gets besides those that this process was started with.
    """

    def __init__(
        self, python: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.module = module
        self._process = subprocess.Popen(
            [python, "-m", f"harness.{module}", *arguments],
            cwd=BENCHMARKS,
            env=first_environment() | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hello = self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, what: str, **arguments: object) -> Answer:
        """Send one request and wait for its answer."""
        stdin = self._process.stdin
        if stdin is None:
            raise WorkerError(f"{self.module} takes no requests")
        stdin.write(json.dumps({"what": what, **arguments}) + "\n")
        stdin.flush()
        return self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The end of its input ends the worker.
        self._process.communicate()

    def _answer(self) -> Answer:
        stdout = self._process.stdout
        line = stdout.readline() if stdout is not None else ""
        if not line:
            raise WorkerError(f"{self.module} ended with exit code {self._process.wait()}")
        answer: Answer = json.loads(line)
        return answer


def first_environment() -> dict[str, str]:
    """The variables that this process was started with.

    Pascaline sets one for its own threads when it is imported; a peer must not inherit that.
    """
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)


def serve(hello: Mapping[str, object], answers: Mapping[str, Callable[..., Answer]]) -> None:
    """The worker's side: greet, then answer until stdin ends.

    `answers[what](**arguments)` makes the answer to a request.
    """
    # Whatever libraries print must not get between the lines.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(answer: Mapping[str, object]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    send(hello)
    for line in sys.stdin:
        request = json.loads(line)
        send(answers[request.pop("what")](**request))
