"""A real `pascaline serve` in a process of its own."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import psutil

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


def command(*arguments: str) -> list[str]:
    """The command line's entry point, as an installed `pascaline` runs it."""
    return [sys.executable, "-m", "pascaline.cli.app", *arguments]


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Whether the condition became true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass
class RunningServer:
    """Starts with its creation; `url` waits until the server says where it listens."""

    arguments: tuple[str, ...]
    stderr: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            command("serve", *self.arguments),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that `interrupt` can reach all that a terminal would
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._url: str | None = None

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr.append(line)
            self._lines.put(line)
        self._lines.put("")

    @property
    def url(self) -> str:
        """http://127.0.0.1:PORT, without a slash at its end."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._url is None:
            line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.01))
            assert line, f"the server ended:\n{''.join(self.stderr)}"
            if found := re.search(r"(http://\S+)/v1\b", line):
                self._url = found[1]
        return self._url

    @property
    def engine(self) -> psutil.Process:
        """The engine's process."""
        [engine] = psutil.Process(self.process.pid).children()
        assert "pascaline.engine.process" in engine.cmdline()
        return engine

    def metrics(self) -> dict[str, float]:
        """What /metrics says, by name and labels as written there."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    def idle(self) -> bool:
        """Whether nobody's request is known to the server or its engine."""
        seen = self.metrics()
        return not any(
            seen[f"pascaline_{name}"]
            for name in ("requests_live", "sequences_running", "sequences_waiting", "kv_pages_held")
        )

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """The exit code, once the process has ended and all it said has been read."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def interrupt(self) -> None:
        """Ctrl-C, as the terminal sends it to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """For the end of a test that may have failed."""
        if self.process.poll() is None:
            self.process.kill()
            self.wait()
