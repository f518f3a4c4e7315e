"""pascaline chat, in a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator

import pytest

from running_server import command

QUESTION = "Say only: yes"
TIMEOUT_S = 90.0


class Terminal:
    """A program in a terminal of its own, and a person who reads and types."""

    def __init__(self, *arguments: str) -> None:
        self._person, program = pty.openpty()
        self.process = subprocess.Popen(
            command(*arguments),
            env={**os.environ, "TERM": "dumb"},
            preexec_fn=lambda: os.login_tty(program),  # so that Ctrl-C is a signal
        )
        os.close(program)
        self.seen = ""

    def read_until(self, wanted: str) -> str:
        """What came since the last call, up to and with `wanted`."""
        deadline = time.monotonic() + TIMEOUT_S
        while wanted not in self.seen:
            ready, _, _ = select.select([self._person], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {wanted!r} in {self.seen!r}"
            self.seen += os.read(self._person, 4096).decode()
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def type(self, text: str) -> None:
        os.write(self._person, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._person)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    opened = Terminal("chat", "demo", "--temperature", "0", "--max-tokens", "300")
    yield opened
    opened.close()


def test_conversation(terminal: Terminal) -> None:
    def ask(question: str) -> str:
        """The answer, without the echo of the question."""
        terminal.type(question + "\n")
        terminal.read_until(question)
        answer = terminal.read_until("tokens/s, first after")
        terminal.read_until("\n> ")
        return answer.rpartition("[")[0].strip()

    assert "Ctrl-D ends" in terminal.read_until("\n> ")
    first = ask(QUESTION)
    assert first
    # The model sees what was said before: the same words are another question now.
    assert ask("What did I say?") != first
    terminal.type("/new\n")
    terminal.read_until("\n> ")
    assert ask(QUESTION) == first

    terminal.type("Tell me a long story about a clockmaker.\n")
    terminal.read_until("clockmaker.\r\n")
    terminal.read_until(" ")
    terminal.type("\x03")
    terminal.read_until("[stopped]")
    terminal.read_until("\n> ")
    terminal.type("\x04")
    assert terminal.process.wait(TIMEOUT_S) == 0
    assert "Traceback" not in terminal.seen
