"""What a MODEL argument means, hub ids against a local stand-in for the hub."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.reference import ResolvedModel, resolve
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ignore_progress

SHA = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": os.urandom(50_000),
    "pytorch_model.bin": b"no",
    "a/b.json": b"",
}


def test_demo(demo_path: Path) -> None:
    assert resolve("demo", ignore_progress) == ResolvedModel(demo_path, "demo")


def test_folders_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    file = tmp_path / "tiny.Q4_0.gguf"
    file.write_bytes(b"GGUF")
    assert resolve(f"{folder}/", ignore_progress) == ResolvedModel(folder, "My-Model")
    assert resolve(str(file), ignore_progress) == ResolvedModel(file, "tiny.Q4_0")
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


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of a server that answers like the hub: one/model, gated/model, and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            info = {"id": "one/model", "sha": SHA, "siblings": [{"rfilename": name} for name in FILES]}
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in FILES.items()
            ]
            name = self.path.removeprefix(f"/one/model/resolve/{SHA}/")
            if self.path.startswith("/api/models/one/model/revision/"):
                self._answer(200, json.dumps(info).encode())
            elif self.path.startswith(f"/api/models/one/model/tree/{SHA}"):
                self._answer(200, json.dumps(tree).encode())
            elif name in FILES:
                self._answer(200, FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": SHA})
            elif "/gated/" in self.path:
                self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
            else:
                self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _resolve_in_a_process(model: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The hub's client reads its settings when it is imported, so each case has its own process."""
    script = (
        "import sys, json; from pascaline.checkpoint.reference import resolve;"
        "from pascaline.core.errors import CheckpointError\n"
        "reports = []\n"
        "try:\n"
        "    found = resolve(sys.argv[1], reports.append)\n"
        "    print(json.dumps([str(found.path), found.served_name, reports[-1].done, reports[-1].total]))\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, model],
        env=os.environ | {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_a_hub_model_is_fetched_and_found_again_offline(hub: str, tmp_path: Path) -> None:
    done = _resolve_in_a_process("one/model", tmp_path, HF_ENDPOINT=hub)
    path, name, fetched, total = json.loads(done.stdout)
    assert name == "one/model"
    assert {p.name: p.read_bytes() for p in Path(path).iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors")
    }
    assert fetched == total == 50_002
    assert done.stderr == ""
    again = _resolve_in_a_process("one/model", tmp_path, HF_HUB_OFFLINE="1")
    assert json.loads(again.stdout)[0] == path


@pytest.mark.parametrize(
    ("model", "environment", "expected"),
    [
        ("no/model", {}, "no such model: no/model is neither a folder or file here nor a model on the hub"),
        ("gated/model", {}, "the model gated/model is gated"),
        ("one/mo--del", {}, "no such model: one/mo--del"),
        ("one/model", {"HF_HUB_OFFLINE": "1"}, "not on this machine and cannot be fetched"),
        ("one/model", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "Check the network"),
    ],
)
def test_hub_errors_are_one_message(
    hub: str, tmp_path: Path, model: str, environment: dict[str, str], expected: str
) -> None:
    done = _resolve_in_a_process(model, tmp_path, **({"HF_ENDPOINT": hub} | environment))
    assert expected in done.stdout
    assert done.stdout.count("\n") == 1
