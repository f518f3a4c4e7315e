"""Commands and scripts whose output goes nowhere, or cannot be spelled."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from running_server import command

AUDIT = Path(__file__).resolve().parents[2] / "machine_code" / "audit.py"
COMMANDS = {
    "a line": ("pascaline", command("gpus", "P40")),
    "more than a buffer holds": ("pascaline", command("gpus", "--json")),
    "a usage": ("pascaline", command("gpus", "--help")),
    "a script": ("audit", [sys.executable, str(AUDIT), "quantise_input.cu", "--chip", "6.1"]),
}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
of_commands = pytest.mark.parametrize(("name", "arguments"), COMMANDS.values(), ids=COMMANDS)
buffered_or_not = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


@contextmanager
def broken_pipe() -> Iterator[int]:
    """Whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def ended(arguments: list[str], stdout: IO[str] | int, unbuffered: str) -> subprocess.CompletedProcess[str]:
    """Of a command whose stdout goes there."""
    return subprocess.run(
        arguments,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os; from pascaline.cli.ending import run\n{text}"]


@pytest.mark.parametrize("closed", [(1,), (1, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize(("arguments", "code"), [(("gpus", "P40"), 0), (("gpus", "no such card"), 2)])
def test_what_the_shell_has_closed_is_not_written_to(
    arguments: tuple[str, ...], code: int, closed: tuple[int, ...]
) -> None:
    redirected = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *command(*arguments)], capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert bool(done.stderr) == (code == 2 and 2 not in closed)


def test_a_prompt_is_answered_into_nothing(demo_path: Path) -> None:
    asked = command("generate", str(demo_path), "--prompt", "a", "--max-tokens", "2")
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *asked], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


@of_commands
@buffered_or_not
def test_a_full_disk_is_one_message(name: str, arguments: list[str], unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = ended(arguments, full, unbuffered)
    assert done.stderr == f"{name}: cannot write the output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", [["gpus", "no such card"], ["no such verb"]], ids=str)
def test_where_no_message_can_be_written_the_exit_code_tells(
    arguments: list[str],
) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command(*arguments), stdout=subprocess.PIPE, stderr=full)
    assert done.returncode in (1, 2)
    assert done.stdout == b""


@of_commands
@buffered_or_not
def test_of_a_reader_that_left_nothing_is_said(name: str, arguments: list[str], unbuffered: str) -> None:
    with broken_pipe() as writer:
        done = ended(arguments, writer, unbuffered)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_pipe_to_another_process_that_breaks_is_not_taken_for_the_output() -> None:
    with broken_pipe() as writer:
        done = subprocess.run(
            script(f"run(lambda: os.write({writer}, b'a request'))"),
            capture_output=True,
            text=True,
            pass_fds=[writer],
        )
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


@pytest.mark.parametrize("redirected", ["", ">&-"])
@pytest.mark.parametrize(
    "arguments", [command("plan", "--help"), script("run(lambda: print('\\u00b1'))")], ids=["verb", "script"]
)
def test_what_the_locale_cannot_spell_is_replaced(arguments: list[str], redirected: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | ASCII,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("?" in done.stdout) == (not redirected)
