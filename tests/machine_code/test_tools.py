"""How the tools of machine_code/ end: after Ctrl-C, and where the cache's folder is none."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from running_server import until

TOOLS = Path(__file__).resolve().parents[2] / "machine_code"


def started(*command: str, cache: Path | None = None) -> subprocess.Popen[str]:
    """In a group of processes of its own, all of which Ctrl-C in a terminal would reach."""
    return subprocess.Popen(
        [sys.executable, str(TOOLS / command[0]), *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | ({} if cache is None else {"PASCALINE_CACHE": str(cache)}),
    )


def is_running(group: int) -> bool:
    """Whether any of the group is: where nobody asks for exit codes, what ended stays as a zombie."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


@pytest.mark.parametrize(
    ("tool", "times"),
    [("audit.py", 1), ("run_pascal_ptx.py", 1), ("run_pascal_ptx.py", 3)],
)
def test_interrupted_while_it_compiles(tool: str, times: int, tmp_path: Path) -> None:
    arguments = {"audit.py": ("--chip", "6.1"), "run_pascal_ptx.py": ("prepare", str(tmp_path))}
    with started(tool, *arguments[tool]) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # the first of many kernels, or the word that they are compiled now
        for _ in range(times):
            os.killpg(process.pid, signal.SIGINT)
        _, messages = process.communicate(timeout=120)
    assert (process.returncode, messages) == (130, "")
    assert list(tmp_path.iterdir()) == []
    assert until(lambda: not is_running(process.pid))


@pytest.mark.parametrize(
    "command",
    [
        ("audit.py", "quantise_input.cu", "--chip", "6.1"),
        ("compile_all.py", "--cuda", "12.6", "--chip", "6.1", "--form", "Q4_K", "--rows", "1", "--count"),
        ("examine.py", "scale_rows.cu", "-D", "INPUT_TYPE=0", "-D", "WIDTH=4", "-D", "HAS_PERMUTATION=0"),
    ],
    ids=lambda command: command[0],
)
def test_a_cache_that_is_no_folder_is_one_message(command: tuple[str, ...], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.touch()
    with started(*command, cache=cache) as process:
        _, messages = process.communicate(timeout=120)
    assert process.returncode == 2
    [message] = messages.splitlines()
    assert message.startswith(f"{Path(command[0]).stem}: {cache}/")
    assert message.endswith(
        "cannot be written: Not a directory. Point PASCALINE_CACHE to a folder that you may write to"
    )
