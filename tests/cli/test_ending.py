"""Commands whose output goes nowhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from running_server import command


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
