"""What a MODEL argument means, on this machine; the hub has its own tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.reference import ResolvedModel, resolve
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ignore_progress


def test_demo(demo_path: Path) -> None:
    assert resolve("demo", ignore_progress) == ResolvedModel(demo_path, "demo")


def test_folders_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    file = tmp_path / "tiny.Q4_0.gguf"
    file.write_bytes(b"GGUF")
    assert resolve(f"{folder}/", ignore_progress) == ResolvedModel(folder, "My-Model")
    assert resolve(str(file), ignore_progress) == ResolvedModel(file, "tiny.Q4_0")
    part = tmp_path / "big.Q4_0-00002-of-00003.gguf"
    part.write_bytes(b"GGUF")
    assert resolve(str(part), ignore_progress) == ResolvedModel(part, "big.Q4_0")
    monkeypatch.chdir(folder)
    assert resolve(".", ignore_progress).served_name == "My-Model"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/My-Model", ignore_progress) == ResolvedModel(folder, "My-Model")


@pytest.mark.parametrize(
    "model",
    [
        "",
        "gpt2",
        "none.gguf",
        "models/none.gguf",
        "/no/such/folder",
        "a/b/c",
        "one/mo--del",
        "./a",
        "~nobody-here/a",
        "a" * 5000,
    ],
)
def test_no_such_model(model: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such model: .*Hugging Face id \(owner/name\)"):
        resolve(model, ignore_progress)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(CheckpointError, match="is a pipe or a device, not a file"):
        open_checkpoint(tmp_path / "model.gguf")
