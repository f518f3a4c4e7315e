"""Model folders: safetensors files, settings, templates, tokens."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.safetensors_file import SafetensorsFile
from pascaline.core.errors import CheckpointError, PascalineError, UnsupportedError

DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64,
    "I8": torch.int8, "U8": torch.uint8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip
TOOL = {"name": "tool", "template": "t"}
CONFIG: dict[str, object] = {"model_type": "llama", "eos_token_id": 2}


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(3, 5, generator=generator) * 9
    tensors = {f"model.{name}": source.to(dtype) for name, dtype in DTYPES.items()}
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}


def _raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _folder(path: Path, config: dict[str, object] = CONFIG) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(_tensors(), path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_one_weight_file_may_have_any_name(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    names = set(open_checkpoint(folder).tensors)
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-128g.safetensors")
    assert set(open_checkpoint(folder).tensors) == names
    (folder / "second.safetensors").write_bytes(b"")
    several = r"2 weight files, gptq_model-4bit-128g\.safetensors, second\.safetensors, and no model"
    with pytest.raises(CheckpointError, match=several):
        open_checkpoint(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"no weights in safetensors format .*one file of another name"):
        open_checkpoint(folder)


def test_equals_the_safetensors_library(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.container == "safetensors"
    with safetensors.safe_open(folder / "model.safetensors", "pt") as reference:
        assert set(checkpoint.tensors) == set(reference.keys())
        for name in reference.keys():  # noqa: SIM118 - not a mapping
            expected = reference.get_tensor(name)
            entry = checkpoint.tensors[name]
            assert entry.name == name
            assert entry.shape == tuple(expected.shape)
            assert entry.type_name == reference.get_slice(name).get_dtype()
            assert bytes(checkpoint.read(name)) == _raw(expected)
            assert entry.nbytes == checkpoint.read(name).nbytes
            checkpoint.release(name)
    assert {entry.type_name for entry in checkpoint.tensors.values()} == set(DTYPES)
    with pytest.raises(CheckpointError, match="has no tensor lm_head"):
        checkpoint.read("lm_head")
    checkpoint.close()


def test_torch_takes_a_view_as_it_is(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(_folder(tmp_path))
    view = checkpoint.read("model.BF16")
    tensor = torch.frombuffer(view, dtype=torch.bfloat16).reshape(3, 5)
    assert torch.equal(tensor, _tensors()["model.BF16"])
    checkpoint.close()


def _sharded(folder: Path) -> dict[str, str]:
    _folder(folder)
    (folder / "model.safetensors").unlink()
    weight_map = {
        name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(_tensors())
    }
    for file in set(weight_map.values()):
        save_file({n: t for n, t in _tensors().items() if weight_map[n] == file}, folder / file)
    _write_index(folder, weight_map)
    return weight_map


def _write_index(folder: Path, weight_map: dict[str, str]) -> None:
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards(tmp_path: Path) -> None:
    _sharded(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.tensors) == set(_tensors())
    for name, tensor in _tensors().items():
        assert bytes(checkpoint.read(name)) == _raw(tensor)
    checkpoint.close()


def test_shards_that_contradict_the_index(tmp_path: Path) -> None:
    weight_map = _sharded(tmp_path)
    _write_index(tmp_path, weight_map | {"ghost": weight_map["scalar"]})
    with pytest.raises(CheckpointError, match="says that ghost is in"):
        open_checkpoint(tmp_path)
    _write_index(tmp_path, weight_map | {"scalar": "../outside.safetensors"})
    with pytest.raises(CheckpointError, match="a file of the same folder"):
        open_checkpoint(tmp_path)
    _write_index(tmp_path, weight_map)
    (tmp_path / weight_map["scalar"]).unlink()
    with pytest.raises(CheckpointError, match=f"lacks 1 of 2 weight files: {weight_map['scalar']}"):
        open_checkpoint(tmp_path)


def test_end_tokens_are_merged(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    assert open_checkpoint(folder).hf_config["eos_token_id"] == [2]
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 2, 9]}')
    assert open_checkpoint(folder).hf_config["eos_token_id"] == [2, 7, 9]


@pytest.mark.parametrize(
    ("tokenizer_config", "jinja", "expected"),
    [
        ({}, None, None),
        ({"chat_template": "from config"}, None, "from config"),
        ({"chat_template": "from config"}, "from file", "from file"),
        ({"chat_template": [TOOL, {"name": "default", "template": "d"}]}, None, "d"),
        ({"chat_template": [TOOL]}, None, None),
    ],
)
def test_chat_template(
    tmp_path: Path, tokenizer_config: dict[str, object], jinja: str | None, expected: str | None
) -> None:
    folder = _folder(tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    if jinja is not None:
        (folder / "chat_template.jinja").write_text(jinja)
    assert open_checkpoint(folder).chat_template == expected


def test_special_tokens(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        checkpoint.tokenizer_source()
    (folder / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"Convert its vocabulary with transformers"):
        checkpoint.tokenizer_source()
    (folder / "tokenizer.json").write_text("{}")
    assert checkpoint.tokenizer_source().bos_token is None
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": {"content": "</s>"}}')
    source = open_checkpoint(folder).tokenizer_source()
    assert (source.bos_token, source.eos_token) == ("<s>", "</s>")
    assert source.tokenizer_json == folder / "tokenizer.json"
    assert source.gguf_metadata is None


def test_quantisation_settings_are_found_in_older_files_too(tmp_path: Path) -> None:
    assert open_checkpoint(_folder(tmp_path, CONFIG)).hf_config.get("quantization_config") is None
    (tmp_path / "quantize_config.json").write_text('{"bits": 4}')
    expected: dict[str, object] = {"quant_method": "gptq", "bits": 4}
    assert open_checkpoint(tmp_path).hf_config["quantization_config"] == expected
    given: dict[str, object] = {"quant_method": "awq", "bits": 4}
    folder = _folder(tmp_path, {**CONFIG, "quantization_config": given})
    assert open_checkpoint(folder).hf_config["quantization_config"] == given


def test_wrong_paths_say_what_to_give(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json.*The folder is empty"):
        open_checkpoint(empty)
    (empty / "x.Q4_0.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"Give the GGUF file itself, .*x\.Q4_0\.gguf"):
        open_checkpoint(empty)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    torch.save({"a": torch.zeros(2)}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="never loaded"):
        open_checkpoint(pickled)
    with pytest.raises(CheckpointError, match=r"pickled checkpoint.*never loaded"):
        open_checkpoint(pickled / "pytorch_model.bin")
    (pickled / "config.json").write_text("{oops")
    with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
        open_checkpoint(pickled)
    folder = _folder(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="Give its folder: "):
        open_checkpoint(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a model: it begins with"):
        open_checkpoint(folder / "config.json")
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_checkpoint(tmp_path / "nothing")


def _file(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def _entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "kind", "message"),
    [
        (b"{not json", b"", CheckpointError, "not valid JSON"),
        (b"[1]", b"", CheckpointError, "not a JSON object"),
        (b'{"a":1,"a":2}', b"", CheckpointError, "a name stands there twice"),
        (b"[" * 100_000, b"", CheckpointError, "not valid JSON"),
        ({"a": 3}, b"", CheckpointError, "entry of a is 3"),
        ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), CheckpointError, "two data_offsets"),
        ({"a": _entry(0, 4, [-1])}, bytes(4), CheckpointError, "a dtype, a shape"),
        ({"a": _entry(0, 4, [1], "F3")}, bytes(4), UnsupportedError, "element type F3"),
        ({"a": _entry(0, 4, [2])}, bytes(4), CheckpointError, "spans 4 bytes .expected 8"),
        ({"a": _entry(0, 8, [2])}, bytes(4), CheckpointError, "cut short"),
        ({"a": _entry(0, 2**64, [2**62])}, bytes(4), CheckpointError, "cut short"),
        ({"a": _entry(0, 8, [2]), "b": _entry(4, 12, [2])}, bytes(12), CheckpointError, "b overlaps"),
        ({"a": _entry(0, 4, [1]), "b": _entry(8, 12, [1])}, bytes(12), CheckpointError, "b does not follow"),
        ({"a": _entry(0, 4, [1])}, bytes(9), CheckpointError, "by its header"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, header: object, data: bytes, kind: type[PascalineError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        SafetensorsFile(_file(tmp_path / "m.safetensors", header, data))
    assert "m.safetensors" in str(caught.value)


@given(data=st.binary(max_size=64), length=st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(tmp_path: Path, data: bytes, length: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + data)
    with pytest.raises(CheckpointError):
        SafetensorsFile(path)


def test_a_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    save_file(_tensors(), tmp_path / "whole.safetensors")
    data = (tmp_path / "whole.safetensors").read_bytes()
    for length in range(0, len(data), 5):
        (tmp_path / "cut.safetensors").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
            SafetensorsFile(tmp_path / "cut.safetensors")
