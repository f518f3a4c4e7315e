"""Which files of a hub model are fetched, from a stand-in that speaks the hub's API over HTTP."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pascaline.checkpoint import hub_cache
from pascaline.checkpoint.hub_reference import HubReference
from pascaline.checkpoint.reference import resolve
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import Progress, ignore_progress
from stand_in_hub import StandInHub

WEIGHTS = os.urandom(300_000)
MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": WEIGHTS,
}
# Everything that other programs keep in a repository.
OTHERS = {
    "README.md": b"# Read me",
    "pytorch_model.bin": b"no",
    "tf_model.h5": b"no",
    "model.fp16.safetensors": b"no",
    "consolidated.safetensors": b"no",
    "consolidated.00.pth": b"no",
    "trainer_state.json": b"no",
    "tokenizer.model": b"no",
    "original/params.json": b"no",
    "onnx/model.onnx": b"no",
}


def _fetch(model: str) -> Path:
    return resolve(model, ignore_progress).path


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# --- what is fetched


def test_only_what_is_needed(hub: StandInHub, tmp_path: Path) -> None:
    commit = hub.add("one/model", MODEL | OTHERS)
    reports: list[Progress] = []
    found = resolve("one/model", reports.append)
    assert found.served_name == "one/model"
    assert found.path == tmp_path / "hub" / "models--one--model" / "snapshots" / commit
    assert {p.name: p.read_bytes() for p in found.path.iterdir()} == MODEL
    ends = [(r.stage, r.done, r.total) for r in reports if r.finished]
    assert ends == [
        ("fetching the settings of one/model", 20.0, 20),
        ("fetching one/model", 300_000.0, 300_000),
    ]
    asked = len(hub.requests)
    assert _fetch("one/model") == found.path
    assert hub.asked("file") == [r.path for r in hub.requests[:asked] if not r.path.startswith("/api")]
    assert len(hub.requests) == asked + 1  # whether main has moved on


def test_shards_that_the_index_names(hub: StandInHub) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": os.urandom(2000) for i in (1, 2)}
    index = json.dumps({"weight_map": {"a": next(iter(shards)), "b": list(shards)[1]}}).encode()
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors.index.json": index}
    hub.add("one/model", files | shards | {"model-00003-of-00003.safetensors": b"no"} | OTHERS)
    assert _names(_fetch("one/model")) == set(files) | set(shards)


def test_an_index_that_lies(hub: StandInHub) -> None:
    files = {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}'}
    hub.add("one/model", files)
    with pytest.raises(CheckpointError, match=r"1 of 1 weight files .* are missing: b\.safetensors"):
        _fetch("one/model")
    hub.add("two/model", files | {"model.safetensors.index.json": b'{"weight_map": {"a": "../b"}}'})
    with pytest.raises(CheckpointError, match=r"names the file '\.\./b'"):
        _fetch("two/model")


def test_weights_under_a_name_of_their_own(hub: StandInHub) -> None:
    files = {"config.json": b"{}", "tokenizer.json": b"{}", "gptq_model-4bit-128g.safetensors": WEIGHTS}
    hub.add("one/model", files | {"original/model.safetensors": b"no", "README.md": b"no"})
    assert _names(_fetch("one/model")) == set(files)


def test_settings_of_every_kind(hub: StandInHub) -> None:
    wanted = {
        "generation_config.json": b"{}",
        "quantize_config.json": b"{}",
        "quant_config.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "tokenizer_config.json": b"{ }",
        "tokenizer.model": b"sentencepiece",
    }
    hub.add("one/model", wanted | {"config.json": b"{}", "model.safetensors": WEIGHTS})
    assert _names(_fetch("one/model")) == set(wanted) | {"config.json", "model.safetensors"}


def test_pickled_weights_are_refused_before_they_are_fetched(hub: StandInHub) -> None:
    hub.add("one/model", {"config.json": b"{}", "pytorch_model.bin": WEIGHTS})
    with pytest.raises(CheckpointError, match=r"pickled weights only.*Convert the model with transformers"):
        _fetch("one/model")
    hub.add("two/model", {"README.md": b"hello"})
    with pytest.raises(CheckpointError, match=r"no weights that can be read here .*It has README\.md"):
        _fetch("two/model")
    assert hub.asked("file") == []


def test_a_small_disk_is_told_before_the_download(hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("one/model", MODEL)
    monkeypatch.setattr(hub_cache.HubCache, "free_bytes", lambda self: 100_000)
    with pytest.raises(CheckpointError, match=r"needs 293\.0 KiB more .* has 97\.7 KiB free\. .*HF_HOME"):
        _fetch("one/model")
    assert not any("safetensors" in path for path in hub.asked("file"))


# --- GGUFs

GGUFS = {
    "README.md": b"# Read me",
    "Model-Q4_K_M.gguf": b"GGUF Q4_K_M",
    "Model-Q4_K_S.gguf": b"GGUF Q4_K_S",
    "model.q8_0.gguf": b"GGUF q8_0",
    "Model-IQ4_XS.gguf": b"GGUF IQ4_XS",
    "Model-UD-Q2_K_XL.gguf": b"GGUF UD",
    "mmproj-Model-BF16.gguf": b"GGUF eyes",
    "BF16/Model-BF16-00001-of-00002.gguf": b"GGUF one",
    "BF16/Model-BF16-00002-of-00002.gguf": b"GGUF two",
}


@pytest.mark.parametrize(
    ("model", "files"),
    [
        ("one/ggufs:Q4_K_M", ["Model-Q4_K_M.gguf"]),
        ("one/ggufs:q4_k_s", ["Model-Q4_K_S.gguf"]),
        ("one/ggufs:Q8_0", ["model.q8_0.gguf"]),
        ("one/ggufs:IQ4_XS", ["Model-IQ4_XS.gguf"]),
        ("one/ggufs:Q2_K_XL", ["Model-UD-Q2_K_XL.gguf"]),
        ("one/ggufs:UD-Q2_K_XL", ["Model-UD-Q2_K_XL.gguf"]),
        ("one/ggufs:BF16", ["BF16/Model-BF16-00001-of-00002.gguf", "BF16/Model-BF16-00002-of-00002.gguf"]),
        ("one/ggufs/Model-Q4_K_S.gguf", ["Model-Q4_K_S.gguf"]),
        ("one/ggufs/mmproj-Model-BF16.gguf", ["mmproj-Model-BF16.gguf"]),
        (
            "one/ggufs/BF16/Model-BF16-00002-of-00002.gguf",
            ["BF16/Model-BF16-00002-of-00002.gguf", "BF16/Model-BF16-00001-of-00002.gguf"],
        ),
    ],
)
def test_one_gguf_of_several(hub: StandInHub, tmp_path: Path, model: str, files: list[str]) -> None:
    commit = hub.add("one/ggufs", GGUFS)
    found = resolve(f"{model}@{commit}", ignore_progress)
    snapshot = tmp_path / "hub" / "models--one--ggufs" / "snapshots" / commit
    assert found.path == snapshot / sorted(files)[0]
    assert found.served_name == model
    assert _names(snapshot) == set(files)
    assert found.path.read_bytes() == GGUFS[sorted(files)[0]]


def test_the_only_gguf(hub: StandInHub) -> None:
    hub.add("one/ggufs", {"only.gguf": b"GGUF", "mmproj-F16.gguf": b"GGUF", "config.json": b"{}"})
    assert _fetch("one/ggufs").name == "only.gguf"
    assert hub.asked("file") == [f"/one/ggufs/resolve/{hub.repositories['one/ggufs'].refs['main']}/only.gguf"]


def test_several_ggufs_are_listed_with_their_sizes(hub: StandInHub) -> None:
    hub.add("one/ggufs", GGUFS | {"other/Model-Q4_K_S.gguf": bytes(2048)})
    with pytest.raises(CheckpointError) as caught:
        _fetch("one/ggufs")
    assert str(caught.value) == (
        "one/ggufs has 7 GGUF files (expected one of these:\n"
        "  one/ggufs:BF16 (16 B)\n"
        "  one/ggufs:IQ4_XS (11 B)\n"
        "  one/ggufs:Q4_K_M (11 B)\n"
        "  one/ggufs/Model-Q4_K_S.gguf (11 B)\n"
        "  one/ggufs:UD-Q2_K_XL (7 B)\n"
        "  one/ggufs:q8_0 (9 B)\n"
        "  one/ggufs/other/Model-Q4_K_S.gguf (2.0 KiB)\n)"
    )
    with pytest.raises(CheckpointError, match=r"several GGUF files of quantisation Q4_K_S(?s:.)*other/Model"):
        _fetch("one/ggufs:Q4_K_S")
    with pytest.raises(CheckpointError, match=r"no GGUF file of quantisation Q4_K (?s:.)*one/ggufs:Q4_K_M"):
        _fetch("one/ggufs:Q4_K")
    with pytest.raises(CheckpointError, match=r"has no file no\.gguf(?s:.)*one/ggufs:Q4_K_M"):
        _fetch("one/ggufs/no.gguf")


def test_a_split_gguf_that_is_not_whole(hub: StandInHub) -> None:
    hub.add("one/ggufs", {"m-00001-of-00003.gguf": b"GGUF", "m-00003-of-00003.gguf": b"GGUF"})
    with pytest.raises(CheckpointError, match=r"lacks 1 of the 3 parts of .*: m-00002-of-00003\.gguf"):
        _fetch("one/ggufs")


# --- how it is written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one/model", HubReference("one/model")),
        ("one/model@v1.0", HubReference("one/model", revision="v1.0")),
        ("one/model:Q4_K_M@main", HubReference("one/model", "Q4_K_M")),
        ("one/model/a b.gguf@refs/pr/1", HubReference("one/model", file="a b.gguf", revision="refs/pr/1")),
        ("one/model/a/b.gguf", HubReference("one/model", file="a/b.gguf")),
        ("one/m.gguf", None),
        ("one/m.safetensors", None),
        ("one/model/b.safetensors", None),
        ("one/mo--del", None),
        ("one/mo..del", None),
        ("one/model@../x", None),
        ("one/model/../x.gguf", None),
        ("one/model//x.gguf", None),
        ("one/model@", None),
        ("one/model:", None),
        ("one", None),
        ("./model", None),
        ("one/model\n", None),
    ],
)
def test_spellings(text: str, expected: HubReference | None) -> None:
    assert HubReference.parse(text) == expected
    if expected is not None:
        assert HubReference.parse(expected.written) == expected
