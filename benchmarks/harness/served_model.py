"""`pascaline serve` in processes of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from harness.json_lines import first_environment
from pascaline.core.errors import EngineError


@dataclass(frozen=True)
class Server:
    """A server that listens, by its processes."""

    port: int
    pid: int
    engine_pid: int


@contextmanager
def serving(model: str, options: Sequence[str]) -> Iterator[Server]:
    """A server on a free port, stopped afterwards; `options` are those of `pascaline serve`.

    Raises
    ------
    EngineError : it does not start; has what it said.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "pascaline.cli.app", "serve", model, "--port", "0", *options],
        env=first_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = []
        for line in process.stderr or ():
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/v1\b", line):
                [engine] = psutil.Process(process.pid).children()
                yield Server(int(found[1]), process.pid, engine.pid)
                return
        raise EngineError(f"the server did not start: {''.join(said).strip()}")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
