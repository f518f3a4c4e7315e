"""The way of a hub model into the cache: revisions, no network, tokens, refusals, broken downloads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, try_to_load_from_cache

from pascaline.checkpoint import hub_cache
from pascaline.checkpoint.reference import resolve
from pascaline.core.errors import CheckpointError, ConfigError
from pascaline.core.progress import Progress, ignore_progress
from stand_in_hub import Repository, StandInHub, digest_of

WEIGHTS = os.urandom(300_000)
MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": WEIGHTS,
}


def _fetch(model: str) -> Path:
    return resolve(model, ignore_progress).path


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _blobs(tmp_path: Path, model: str = "one/model") -> Path:
    return tmp_path / "hub" / f"models--{model.replace('/', '--')}" / "blobs"


def _part(tmp_path: Path) -> Path:
    return _blobs(tmp_path) / f"{digest_of(WEIGHTS)}.incomplete"


# --- revisions and the cache


def test_revisions(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    old = hub.add("one/model", MODEL)
    hub.add("one/model", MODEL | {"config.json": b'{"branch": 1}'}, "refs/pr/7")
    main = _fetch("one/model")
    monkeypatch.setattr(hub_cache.HubCache, "free_bytes", lambda self: 1000)
    branch = _fetch("one/model@refs/pr/7")
    assert (branch / "config.json").read_bytes() == b'{"branch": 1}'
    # The weights are the same file.
    assert (branch / "model.safetensors").resolve() == (main / "model.safetensors").resolve()
    assert sum(path.endswith("model.safetensors") for path in hub.asked("file")) == 1
    new = hub.add("one/model", MODEL | {"config.json": b'{"new": 1}'})
    assert _fetch("one/model").name == new
    assert _fetch(f"one/model@{old}") == main
    assert resolve("one/model@refs/pr/7", ignore_progress).served_name == "one/model"
    with pytest.raises(
        CheckpointError, match=r"has no revision 'v9' \(expected a branch, a tag or a commit\)"
    ):
        _fetch("one/model@v9")


def test_a_commit_in_the_cache_needs_no_network(hub: StandInHub) -> None:
    commit = hub.add("one/model", MODEL)
    path = _fetch(f"one/model@{commit}")
    hub.requests.clear()
    assert _fetch(f"one/model@{commit}") == path
    assert hub.requests == []
    assert not (path.parents[1] / "refs").exists()


def test_the_cache_without_a_network(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("one/model", MODEL)
    path = _fetch("one/model")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert _fetch("one/model") == path
    (path / "tokenizer.json").unlink()
    (path.parents[1] / "blobs" / digest_of(MODEL["tokenizer.json"])).unlink()
    with pytest.raises(
        CheckpointError,
        match=r"one/model is not on this machine and cannot be fetched: Connection refused .*; "
        r"what is here is not complete: tokenizer\.json is missing\. .*HF_ENDPOINT",
    ):
        _fetch("one/model")
    with pytest.raises(CheckpointError, match="two/model is not on this machine and cannot be fetched"):
        _fetch("two/model")


def test_one_short_try_where_the_network_hangs(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("one/model", MODEL)
    path = _fetch("one/model")
    hub.requests.clear()
    hub.refuse["api"] = [(503, {"Retry-After": "60"})] * 3
    start = time.monotonic()
    assert _fetch("one/model") == path
    assert time.monotonic() - start < 5
    assert len(hub.requests) == 1


@pytest.mark.parametrize("saved", [True, False])
def test_offline(hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool) -> None:
    commit = hub.add("one/model", MODEL)
    path = _fetch("one/model")
    if not saved:  # as where another program filled the cache
        (tmp_path / "pascaline" / "hub" / "models--one--model" / f"{commit}.json").unlink()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _fetch("one/model") == path
    assert _fetch(f"one/model@{commit}") == path
    with pytest.raises(CheckpointError, match="two/model is not on this machine, and HF_HUB_OFFLINE forbids"):
        _fetch("two/model")
    (path / "model.safetensors").resolve().unlink()
    for model in ("one/model", f"one/model@{commit}"):
        with pytest.raises(CheckpointError, match="forbids to fetch it; what is here is not complete"):
            _fetch(model)
    assert hub.requests == []


def test_an_unfinished_update_leaves_the_old_model_usable(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("one/model", MODEL)
    path = _fetch("one/model")
    hub.add("one/model", MODEL | {"model.safetensors": os.urandom(4000)})
    hub.break_after = 0
    with pytest.raises(CheckpointError, match="goes on where it stopped"):
        _fetch("one/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _fetch("one/model") == path


def test_a_cache_that_cannot_be_written_to(hub: StandInHub, tmp_path: Path) -> None:
    hub.add("one/model", MODEL)
    (tmp_path / "hub").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cache .* cannot be used: Not a directory.*HF_HOME"):
        _fetch("one/model")


def test_the_hubs_own_client_shares_the_cache(hub: StandInHub, tmp_path: Path) -> None:
    commit = hub.add("one/model", MODEL)
    hub.add("two/model", MODEL | {"README.md": b"# Read me"})
    path = _fetch("one/model")
    found = try_to_load_from_cache("one/model", "model.safetensors", cache_dir=tmp_path / "hub")
    assert found == str(path / "model.safetensors")
    script = "import sys; from huggingface_hub import snapshot_download as get; print(get(sys.argv[1]))"
    environment = os.environ | {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    for model in ("one/model", "two/model"):
        subprocess.run([sys.executable, "-c", script, model], env=environment, check=True, timeout=60)
    assert (
        sum(r.path.endswith(f"{commit}/model.safetensors") and r.method == "GET" for r in hub.requests) == 1
    )
    hub.requests.clear()
    assert (_fetch("two/model") / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.asked("file") == []


# --- tokens and refusals


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("one/model", MODEL)
    hub.repositories["one/model"].token = "secret"
    hub.repositories["old/name"] = Repository({}, {}, renamed_to="one/model")
    with pytest.raises(CheckpointError, match=r"no such model: one/model.*for a private model run"):
        _fetch("one/model")
    (tmp_path / "token").write_text("secret")  # as `hf auth login` leaves it
    hub.requests.clear()
    _fetch("one/model")
    assert {r.authorization for r in hub.requests if not r.path.startswith("/cdn/")} == {"Bearer secret"}
    assert [r.authorization for r in hub.requests if r.path.startswith("/cdn/")] == [None]
    monkeypatch.setenv("HF_TOKEN", "secret")
    (tmp_path / "token").unlink()
    assert (_fetch("old/name") / "config.json").read_bytes() == b"{}"
    monkeypatch.setenv("HF_TOKEN", "wrong")
    hub.add("two/model", MODEL)
    with pytest.raises(CheckpointError, match="does not accept your token") as caught:
        _fetch("two/model")
    assert "wrong" not in str(caught.value)


def test_an_endpoint_and_a_token_that_are_none(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read from .*token: Is a directory\. Set HF_TOKEN"):
        _fetch("one/model")
    monkeypatch.setattr(constants, "ENDPOINT", "mirror.example.org")
    with pytest.raises(ConfigError, match=r"HF_ENDPOINT is 'mirror\.example\.org' .expected https://"):
        _fetch("one/model")


def test_a_gated_model(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("gated/model", MODEL)
    hub.repositories["gated/model"].gated = True
    hub.repositories["gated/model"].token = "secret"
    for token in ("", "other"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(CheckpointError, match=r"gated/model is gated.*Ask for access at http"):
            _fetch("gated/model")
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert _names(_fetch("gated/model")) == set(MODEL)


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("api", 404, "no such model: one/model is neither a folder or file here nor a model on the hub"),
        ("api", 403, "cannot be read: the server answered 403"),
        ("api", 500, "cannot be fetched: the server answered 500"),
        ("api", 429, "cannot be fetched: the server answered 429"),
        ("file", 403, "cannot be read: the server answered 403"),
        ("file", 500, "cannot be fetched: the server answered 500"),
        ("file", 429, "cannot be fetched: the server answered 429"),
    ],
)
def test_refusals_are_one_message(hub: StandInHub, kind: str, code: int, message: str) -> None:
    hub.add("one/model", MODEL)
    hub.refuse[kind] = [(code, {})] * 3
    with pytest.raises(CheckpointError, match=message):
        _fetch("one/model")
    tries = {404: 2, 429: 3, 500: 3}.get(code, 1)  # a 404 may mean the question's query
    assert len(hub.asked(kind)) == tries
    hub.refuse.clear()
    assert _names(_fetch("one/model")) == set(MODEL)


def test_a_server_that_asks_for_patience_gets_it(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("one/model", MODEL)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    hub.refuse = {"api": [(429, {"Retry-After": "7"})], "file": [(503, {"Retry-After": "9999"})]}
    assert _names(_fetch("one/model")) == set(MODEL)
    assert pauses == [7.0, 60.0]


@pytest.mark.parametrize(
    "answer", [b"<html>login</html>", b"[]", b'{"sha": "a/b", "siblings": []}', b"[" * 9999]
)
def test_something_that_is_no_hub(hub: StandInHub, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr("pascaline.checkpoint.hub.fetch_listing", lambda wanted, patience: answer)
    with pytest.raises(CheckpointError, match="does not answer as a model hub does"):
        _fetch("one/model")


def test_files_with_strange_paths_are_left_alone(hub: StandInHub, tmp_path: Path) -> None:
    hub.add("one/model", {"../../../escaped.gguf": b"GGUF", "/etc/x.gguf": b"GGUF", "good.gguf": b"GGUF"})
    assert _fetch("one/model").name == "good.gguf"
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("answers_head", [True, False])
def test_a_mirror_that_tells_no_sizes(hub: StandInHub, answers_head: bool) -> None:
    hub.sizes = False
    hub.answers_head = hub.knows_queries = answers_head
    hub.break_after = 120_000
    hub.add("one/model", MODEL)
    folder = _fetch("one/model")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == MODEL
    large = [r.range for r in hub.requests if r.path.startswith("/cdn/") and r.method == "GET"]
    assert large == [None, "bytes=120000-", "bytes=240000-"]
    assert _fetch("one/model") == folder


def test_a_mirror_that_tells_no_sizes_sends_something_else(hub: StandInHub) -> None:
    """The hash that it gives instead of them is held against the file."""
    hub.sizes = False
    hub.add("one/model", MODEL | {"config.json": b'{"a": 1}'})
    hub.corrupt_small = True
    with pytest.raises(CheckpointError, match=r"config\.json has git hash"):
        _fetch("one/model")


# --- broken downloads


def test_broken_connections_are_taken_up_again(hub: StandInHub) -> None:
    hub.add("one/model", MODEL)
    hub.break_after = 120_000
    reports: list[Progress] = []
    resolve("one/model", reports.append)
    assert [r.range for r in hub.requests if r.path.startswith("/cdn/")] == [
        None,
        "bytes=120000-",
        "bytes=240000-",
    ]
    assert (reports[-1].done, reports[-1].total) == (300_000, 300_000)


def test_a_server_without_ranges(hub: StandInHub, tmp_path: Path) -> None:
    hub.add("one/model", MODEL)
    hub.ranges = False
    _blobs(tmp_path).mkdir(parents=True)
    _part(tmp_path).write_bytes(WEIGHTS[:1000])
    reports: list[Progress] = []
    path = resolve("one/model", reports.append).path
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert (reports[-1].done, reports[-1].total) == (300_000, 300_000)


@pytest.mark.parametrize(("have", "ranges"), [(WEIGHTS, []), (WEIGHTS + b"more", [None])])
def test_parts_that_are_whole_or_too_long(
    hub: StandInHub, tmp_path: Path, have: bytes, ranges: list[str | None]
) -> None:
    hub.add("one/model", MODEL)
    _blobs(tmp_path).mkdir(parents=True)
    _part(tmp_path).write_bytes(have)
    assert (_fetch("one/model") / "model.safetensors").read_bytes() == WEIGHTS
    assert [r.range for r in hub.requests if r.path.startswith("/cdn/")] == ranges


@pytest.mark.parametrize("extra", [-1, 1])
def test_another_length_than_the_listing_says(hub: StandInHub, extra: int) -> None:
    hub.add("one/model", MODEL)
    hub.announced_extra = extra
    with pytest.raises(CheckpointError, match=rf"is {300_000 + extra} bytes \(expected 300000 bytes"):
        _fetch("one/model")


def test_other_content_is_deleted(hub: StandInHub, tmp_path: Path) -> None:
    hub.add("one/model", MODEL)
    hub.corrupt = True
    with pytest.raises(CheckpointError, match=rf"has sha256 .* \(expected {digest_of(WEIGHTS)}\)"):
        _fetch("one/model")
    assert not _part(tmp_path).exists()
    hub.corrupt = False
    assert (_fetch("one/model") / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_download_goes_on(hub: StandInHub, tmp_path: Path, how: signal.Signals) -> None:
    hub.add("one/model", MODEL)
    hub.hold_after = 100_000
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-m", "pascaline.cli.app", "generate", "one/model", "--prompt", "x"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert hub.held.wait(30)
        deadline = time.monotonic() + 20
        while not (_part(tmp_path).exists() and _part(tmp_path).stat().st_size == 100_000):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(how)
        _, said = process.communicate(timeout=20)
    hub.release.set()
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert "Traceback" not in said
    hub.hold_after = None
    hub.requests.clear()
    assert (_fetch("one/model") / "model.safetensors").read_bytes() == WEIGHTS
    assert [r.range for r in hub.requests if r.path.startswith("/cdn/")] == ["bytes=100000-"]


def test_two_at_once_fetch_once(hub: StandInHub, tmp_path: Path) -> None:
    hub.add("one/model", MODEL)
    hub.hold_after = 1000
    script = (
        "from pascaline.checkpoint.reference import resolve;"
        "resolve('one/model', lambda progress: print(progress.stage, flush=True))"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as first:
        assert hub.held.wait(30)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as second:
            assert second.stdout is not None
            assert any(line.startswith("waiting for another process") for line in second.stdout)
            hub.release.set()
            second.stdout.read()
    assert (first.returncode, second.returncode) == (0, 0)
    assert sum(r.path.startswith("/cdn/") for r in hub.requests) == 1
