"""Ctrl-C while modules are imported and while the model is loaded: one exit code, and no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("mapped", ["_uuid", "libtorch_cpu", "libtorch_python", "SmolLM2"])
def test_interrupted_while_it_starts(mapped: str, demo_path: Path) -> None:
    command = [sys.executable, "-m", "pascaline.cli.app", "generate", str(demo_path), "--prompt", "a"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while mapped not in maps.read_text():  # the library is being imported, the file is open
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert "Traceback" not in messages


@pytest.mark.parametrize("module", ["interrupts", "ending", "options"])
def test_interrupted_before_the_command_line_is_there(module: str) -> None:
    code = f"""
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "pascaline.cli.{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
import pascaline.cli.app
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, "")
