"""Models of the hub described by their headers alone: what is asked for, and what is not downloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from pascaline.checkpoint import hub_cache, remote_file
from pascaline.checkpoint.gguf_checkpoint import GgufCheckpoint
from pascaline.checkpoint.reference import resolve
from pascaline.checkpoint.remote import open_described
from pascaline.checkpoint.safetensors_folder import SafetensorsFolder
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ignore_progress
from stand_in_hub import StandInHub

CONFIG = {"model_type": "llama", "eos_token_id": 2}
ROWS = 1 << 20


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    state = StandInHub()
    state.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", state.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(hub_cache, "cache_dir", lambda: tmp_path / "pascaline")
    monkeypatch.setattr(remote_file, "_PAUSE_S", 0.01)
    yield state
    state.stop()


def _safetensors(names: list[str], rows: int = ROWS) -> bytes:
    header = {
        name: {"dtype": "F16", "shape": [rows, 16], "data_offsets": [rows * 32 * i, rows * 32 * (i + 1)]}
        for i, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(rows * 32 * len(names))


def _sharded() -> dict[str, bytes]:
    shards = {"model-1.safetensors": ["a", "b"], "model-2.safetensors": ["c"]}
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "quantize_config.json": b'{"bits": 4}',
        "tokenizer.json": b"{" + b" " * 1_000_000 + b"}",
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        **{name: _safetensors(tensors) for name, tensors in shards.items()},
    }


def test_shards_are_described_by_less_than_a_hundredth(hub: StandInHub) -> None:
    files = _sharded()
    hub.add("big/model", files)
    checkpoint = open_described("big/model", ignore_progress)
    described = {name: (t.type_name, t.shape, t.nbytes) for name, t in checkpoint.tensors.items()}
    assert described == dict.fromkeys("abc", ("F16", (ROWS, 16), ROWS * 32))
    assert checkpoint.hf_config["quantization_config"] == {"quant_method": "gptq", "bits": 4}
    assert hub.sent_bytes < sum(map(len, files.values())) / 100
    assert not any("tokenizer" in path for path in hub.asked("file"))
    with pytest.raises(CheckpointError, match=r"32\.0 MiB of big/model/model-1.safetensors are not on"):
        checkpoint.read("a")


def test_a_server_that_ignores_ranges_is_cut_off(hub: StandInHub) -> None:
    files = _sharded()
    hub.add("big/model", files)
    hub.ranges = False
    assert len(open_described("big/model", ignore_progress).tensors) == 3
    # What the sockets' buffers hold is on its way before the client can leave: a few MiB, of 96.
    assert hub.sent_bytes < sum(map(len, files.values())) / 4


def test_a_header_longer_than_the_first_request(hub: StandInHub) -> None:
    names = [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2000)]
    weights = _safetensors(names, rows=8)
    hub.add("many/tensors", {"config.json": b'{"model_type": "llama"}', "model.safetensors": weights})
    assert list(open_described("many/tensors", ignore_progress).tensors) == names


def _gguf(path: Path, tokens: int) -> bytes:
    writer = GGUFWriter(path, "llama")
    writer.add_string("llama.note", "before the vocabulary")
    writer.add_token_list([f"token number {i:09d}".encode() for i in range(tokens)])
    writer.add_token_scores([0.0] * tokens)
    writer.add_array("llama.numbers", [7, 8, 9])
    writer.add_string("llama.after", "ä" * 100_000)
    writer.add_tensor("big.weight", np.zeros((1 << 13, 1 << 12), np.float16))
    writer.add_tensor("small.weight", np.arange(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_a_gguf_is_read_past_its_vocabulary(hub: StandInHub, tmp_path: Path) -> None:
    data = _gguf(tmp_path / "model.gguf", tokens=5_000)
    hub.add("some/gguf", {"model-Q4_0.gguf": data})
    remote, here = open_described("some/gguf", ignore_progress), GgufCheckpoint(tmp_path / "model.gguf")
    assert remote.tensors == here.tensors
    assert remote.hf_config == here.hf_config
    assert bytes(remote.read("small.weight")) == np.arange(32, dtype=np.float32).tobytes()
    assert hub.sent_bytes < len(data) / 100
    assert len([r for r in hub.requests if r.path.startswith("/cdn/")]) <= 6


def test_every_value_of_a_gguf_can_be_asked_for(hub: StandInHub, tmp_path: Path) -> None:
    data = _gguf(tmp_path / "model.gguf", tokens=40_000)
    hub.add("some/gguf", {"model-Q4_0.gguf": data})
    remote, here = open_described("some/gguf", ignore_progress), GgufCheckpoint(tmp_path / "model.gguf")
    assert isinstance(remote, GgufCheckpoint)
    assert dict(remote._file.metadata) == dict(here._file.metadata)


def test_what_is_in_the_cache_is_read_there(hub: StandInHub) -> None:
    hub.add("big/model", _sharded())
    folder = resolve("big/model", ignore_progress).path
    asked = len(hub.asked("file"))
    checkpoint = open_described("big/model", ignore_progress)
    assert len(hub.asked("file")) == asked
    assert bytes(checkpoint.read("a")) == bytes(SafetensorsFolder(folder).read("a"))


def test_without_a_network_after_a_description(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("big/model", _sharded())
    open_described("big/model", ignore_progress)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"not complete: model-1.safetensors is missing"):
        open_described("big/model", ignore_progress)


@pytest.mark.parametrize("mirror", [{"sizes": False}, {"knows_queries": False}, {"answers_head": False}])
def test_mirrors(hub: StandInHub, mirror: dict[str, bool]) -> None:
    for name, value in mirror.items():
        setattr(hub, name, value)
    hub.add("big/model", _sharded())
    assert len(open_described("big/model", ignore_progress).tensors) == 3


def test_the_token_goes_to_the_hub_alone(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("big/model", _sharded())
    hub.repositories["big/model"].token = "secret"
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert len(open_described("big/model", ignore_progress).tensors) == 3
    assert {r.authorization for r in hub.requests if r.path.startswith("/cdn/")} == {None}


def test_refusals(hub: StandInHub) -> None:
    hub.add("big/gated", _sharded())
    hub.repositories["big/gated"].gated = True
    with pytest.raises(CheckpointError, match="is gated: its owner must let you in"):
        open_described("big/gated", ignore_progress)
    with pytest.raises(CheckpointError, match="neither a folder or file here nor a model on the hub"):
        open_described("no/such", ignore_progress)


def test_connections_that_break_and_servers_that_lie(hub: StandInHub) -> None:
    hub.add("big/model", _sharded())
    hub.refuse["file"] = [(503, {})]
    assert len(open_described("big/model", ignore_progress).tensors) == 3
    hub.announced_extra = 1
    with pytest.raises(CheckpointError, match=r"is \d+ bytes \(expected \d+ bytes\)"):
        open_described("big/model", ignore_progress)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (os.urandom(7) + b"\x7f" + bytes(1 << 20), "not a sound safetensors"),
        ((100 << 20).to_bytes(8, "little") + bytes(200 << 20), "a header of 104857600 bytes"),
        ((40).to_bytes(8, "little") + b"[" * 2000, "not valid JSON"),
    ],
)
def test_headers_that_are_none(hub: StandInHub, content: bytes, message: str) -> None:
    hub.add("bad/model", {"config.json": b"{}", "model.safetensors": content})
    with pytest.raises(CheckpointError, match=message):
        open_described("bad/model", ignore_progress)
    assert hub.sent_bytes <= 1 << 16
