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
