"""Every check on recordings of every failure that it knows, and what it prescribes, word for word."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_machine import COMMANDS, Case, cases, machine_of

from pascaline.core.errors import ConfigError
from pascaline.doctor import check as check_module
from pascaline.doctor.check import Check, Finding
from pascaline.doctor.checks import CHECKS
from pascaline.doctor.kernel_trial import kernel_trial
from pascaline.doctor.machine import Ran, this_machine
from pascaline.doctor.torch_facts import torch_facts

FOLDER = Path(check_module.__file__).parent / "checks"
BY_NAME = {check.name: check for check in CHECKS}
CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check}: {case.name}")
def test_a_recorded_machine_is_judged(case: Case, tmp_path: Path) -> None:
    finding = BY_NAME[case.check].run(machine_of(case.machine, tmp_path))
    assert finding.status == case.status, finding
    for words in case.seen:
        assert words in finding.seen
    assert finding.remedy.splitlines() == list(case.remedy)
    assert finding.expected
    assert case.source


def test_every_file_is_listed() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert files == set(BY_NAME)
    assert len(BY_NAME) == len(CHECKS)


def test_every_check_is_also_shown_at_ease() -> None:
    assert {case.check for case in CASES if case.status == "ok"} == set(BY_NAME)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_complaint_has_a_recording(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of `warn` and `fail` in the check's source is reached by one of its cases."""
    module = importlib.import_module(f"pascaline.doctor.checks.{check.name}")
    reached: set[int] = set()

    def recording(complain: Callable[..., Finding]) -> Callable[..., Finding]:
        def complain_and_record(*arguments: str) -> Finding:
            reached.add(sys._getframe(1).f_lineno)
            return complain(*arguments)

        return complain_and_record

    for name in ("warn", "fail"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, recording(getattr(module, name)))
    for index, case in enumerate(case for case in CASES if case.check == check.name):
        check.run(machine_of(case.machine, tmp_path / str(index)))
    calls = [
        node
        for node in ast.walk(ast.parse((FOLDER / f"{check.name}.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("warn", "fail")
    ]
    silent = [
        call.lineno for call in calls if not reached & set(range(call.lineno, (call.end_lineno or 0) + 1))
    ]
    assert not silent, f"no case reaches the complaints in lines {silent} of {check.name}.py"


@pytest.mark.parametrize("case", [case for case in CASES if case.status != "ok"], ids=lambda case: case.name)
def test_remedies_are_commands(case: Case) -> None:
    """A shell reads each line as it is, and it begins with a known command."""
    known = (
        "apt conda curl docker du echo export hf kill ls nvidia-smi ps reboot rm sudo unset uv wsl.exe yay"
    )
    assert case.remedy
    for line in case.remedy:
        assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0, line
        assert line.startswith("#") or line.split()[0] in {*known.split(), "/home/ada/venv/bin/python"}, line


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("ran", "words"),
    [
        (None, "does not start"),
        (Ran(None, "", ""), "more than"),
        (Ran(-11, "", "Segmentation fault"), "Segmentation fault"),
        (Ran(0, "", ""), ""),
        (Ran(0, "[1, 2]", ""), ""),
        (Ran(0, '{"architectures": 7}', ""), ""),
        (Ran(0, "\x00\xff not JSON", ""), ""),
    ],
)
def test_a_process_that_fails_is_told(name: str, ran: Ran | None, words: str, tmp_path: Path) -> None:
    machine = replace(machine_of({}, tmp_path), run=lambda command, timeout_s: ran)
    error = (torch_facts if name == "torch" else kernel_trial)(machine).error
    assert error is not None
    assert words in error


def test_one_check_that_gets_no_answer_does_not_end_the_others(tmp_path: Path) -> None:
    def look(_: object) -> list[Finding]:
        raise ConfigError("no home folder is known", remedy="Set HOME")

    finding = Check("broken", look).run(machine_of({}, tmp_path))
    assert (finding.status, finding.seen) == ("warn", "no home folder is known. Set HOME")
    assert finding.remedy == "# Set HOME"


def test_findings_become_one_with_the_worst_first(tmp_path: Path) -> None:
    found = [Finding("ok", "a"), Finding("warn", "b", "B", "mend b"), Finding("fail", "c", "C", "mend c")]
    finding = Check("several", lambda _: found).run(machine_of({}, tmp_path))
    assert finding == Finding("fail", "c; b", "C; B", "mend c\nmend b")


def test_this_machine_answers_every_check() -> None:
    machine = this_machine()
    for check in CHECKS:
        finding = check.run(machine)
        assert finding.status in ("ok", "warn", "fail")
        assert finding.seen
        assert finding.expected
        assert bool(finding.remedy) == (finding.status != "ok")
        json.dumps(finding.seen)


def test_what_others_named_cannot_steer_the_terminal(tmp_path: Path) -> None:
    process = [4242, "\x1b[2Jmine\nfail: everything", 11 << 30]
    gpu = {"name": "card\x07", "memory_bytes": 12 << 30, "free_memory_bytes": 1 << 30, "processes": [process]}
    finding = BY_NAME["gpu_memory"].run(machine_of({"installed": {"gpus": [gpu]}}, tmp_path))
    assert finding.seen.isprintable()
    assert "\\x1b[2Jmine fail: everything (4242) 11.0 GiB" in finding.seen
    assert finding.remedy.endswith("\nkill 4242")
