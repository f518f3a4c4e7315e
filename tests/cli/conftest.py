"""The command line, run in this process: torch is imported once."""

from __future__ import annotations

import sys

import pytest
from outcome import Outcome, Run

from pascaline.cli.app import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("generate", "demo", …)`; an exception that is no exit fails the test."""

    def one(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["pascaline", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        written = capfd.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int), code
        return Outcome(code or 0, written.out, written.err)

    return one
