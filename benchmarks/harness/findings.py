"""What a benchmark of several parts finds, kept as it grows: a part that fails loses no other."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.card_session import CardSession
from harness.json_lines import WorkerError
from harness.machine import card_result_path


class Findings:
    """Figures by name, in a file after every part.

    Parameters
    ----------
    case : of the file's name, where none is given.
    output : the file; None is the card's of today, once `found["card"]` says which card it is.
    """

    def __init__(self, case: str, output: Path | None) -> None:
        self._case = case
        self._output = output
        self._began = time.monotonic()
        self.failed: dict[str, str] = {}
        self.found: dict[str, Any] = {"failed": self.failed, "part_s": {}}

    def part(self, name: str, measure: Callable[[], str]) -> None:
        """Measure, print what `measure` returns, and write all; what fails is noted."""
        began = time.monotonic()
        try:
            print(measure(), flush=True)
        except Exception as error:
            self.failed[name] = f"{type(error).__name__}: {error}"
            print(f"FAILED {name}: {self.failed[name]:.500}", file=sys.stderr, flush=True)
        self.found["part_s"][name] = round(time.monotonic() - began, 1)
        self.write()

    def write(self) -> None:
        """All that was found so far."""
        self.found["wall_s"] = round(time.monotonic() - self._began, 1)
        if self._output is None and "card" in self.found:
            self._output = card_result_path(self.found["card"]["gpu"], self._case)
        if self._output is not None:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            self._output.write_text(json.dumps(self.found, indent=1, ensure_ascii=False) + "\n")


def asked(session: CardSession, what: str, **given: object) -> dict[str, Any]:
    """A worker's answer.

    Raises
    ------
    WorkerError : there is none, with the reason.
    """
    answer = session.ask(what, given)
    if "reason" in answer:
        raise WorkerError(answer["reason"])
    return answer
