"""Real commands with models of the hub: an empty cache, a stand-in for the hub, and then no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from stand_in_hub import StandInHub

ALPHABET = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A random Llama that knows bytes, in two shards, as transformers and tokenizers write it."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(ALPHABET),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(ALPHABET)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(ALPHABET[:2])
    tokenizer.save(str(folder / "tokenizer.json"))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sum(name.endswith(".safetensors") for name in files) > 1
    return files


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    state = StandInHub()
    state.start()
    yield state
    state.stop()


def _generate(model: str, home: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pascaline.cli.app", "generate", model, "--prompt", "hello world"]
    home_variables = {"HF_HOME": str(home / "hf"), "PASCALINE_CACHE": str(home / "pascaline")}
    return subprocess.run(
        [*command, "--max-tokens", "4", "--ignore-eos", "--json", *more],
        env=os.environ | home_variables | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_safetensors_with_and_without_a_network(
    hub: StandInHub, checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add("tiny/llama", checkpoint | {"pytorch_model.bin": b"no", "original/consolidated.00.pth": b"no"})
    hub.repositories["tiny/llama"].token = "secret"
    first = _generate("tiny/llama", tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN="secret")
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert (said["model"], len(said["token_ids"])) == ("tiny/llama", 4)
    assert {path.rpartition("/")[2] for path in hub.asked("file") if "resolve" in path} == set(checkpoint)
    asked = len(hub.requests)
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        again = _generate("tiny/llama", tmp_path, **environment)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout)["token_ids"] == said["token_ids"]
    assert len(hub.requests) == asked


def test_a_dummy_comes_without_its_weights(
    hub: StandInHub, checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    hub.add("tiny/llama", checkpoint)
    dummy = ("--load-format", "dummy")
    first = _generate("tiny/llama", tmp_path, *dummy, HF_ENDPOINT=hub.url)
    assert first.returncode == 0, first.stderr
    fetched = {path.rpartition("/")[2] for path in hub.asked("file") if "resolve" in path}
    assert fetched == {name for name in checkpoint if not name.endswith(".safetensors")}
    # With the weights here, too, it is the same model.
    whole = _generate("tiny/llama", tmp_path, HF_ENDPOINT=hub.url)
    assert whole.returncode == 0, whole.stderr
    again = _generate("tiny/llama", tmp_path, *dummy, HF_ENDPOINT=hub.url)
    said, said_again, of_weights = (json.loads(ran.stdout)["token_ids"] for ran in (first, again, whole))
    assert said == said_again != of_weights


def test_a_split_gguf(hub: StandInHub, tmp_path: Path, demo_path: Path) -> None:
    """Cut from the demo by the gguf package's writer: the answer is the demo's own."""
    parts = _split(demo_path, tmp_path / "parts")
    assert len(parts) == 3
    other = {"SmolLM2-Q8_0.gguf": b"GGUF"}
    hub.add("tiny/ggufs", {path.name: path.read_bytes() for path in parts} | other)
    command = _generate("tiny/ggufs:Q4_1", tmp_path, HF_ENDPOINT=hub.url)
    assert command.returncode == 0, command.stderr
    assert not any("Q8_0" in path for path in hub.asked("file"))
    whole = _generate(str(demo_path), tmp_path)
    assert json.loads(command.stdout)["token_ids"] == json.loads(whole.stdout)["token_ids"]


def _split(path: Path, folder: Path) -> list[Path]:
    folder.mkdir()
    reader = GGUFReader(path)
    writer = GGUFWriter(folder / "SmolLM2-Q4_1.gguf", "llama", split_max_tensors=100)
    for name, value in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            item_type = value.types[-1] if len(value.types) > 1 else None
            writer.add_key_value(name, value.contents(), value.types[0], item_type)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.iterdir())


def test_refusals_are_one_message_and_exit_code_2(hub: StandInHub, tmp_path: Path) -> None:
    hub.add("tiny/pickled", {"config.json": b"{}", "pytorch_model.bin": b"no"})
    done = _generate("tiny/pickled", tmp_path, HF_ENDPOINT=hub.url)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "pascaline: tiny/pickled has pickled weights only. Pickled weights are never"
    )
    assert done.stderr.count("\n") == 1


def _plan(model: str, home: Path, **environment: str) -> dict[str, object]:
    home_variables = {"HF_HOME": str(home / "hf"), "PASCALINE_CACHE": str(home / "pascaline")}
    done = subprocess.run(
        [sys.executable, "-m", "pascaline.cli.app", "plan", model, "--gpu", "p40", "--json"],
        env=os.environ | home_variables | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said


def test_a_plan_before_the_download_is_the_plan_after_it(
    hub: StandInHub, checkpoint: dict[str, bytes], demo_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name, data in checkpoint.items():
        (folder / name).write_bytes(data)
    hub.add("tiny/llama", checkpoint)
    hub.add("tiny/gguf", {"SmolLM2-Q4_1.gguf": demo_path.read_bytes()})
    for model, path in (("tiny/llama", folder), ("tiny/gguf", demo_path)):
        sent = hub.sent_bytes
        remote, local = _plan(model, tmp_path, HF_ENDPOINT=hub.url), _plan(str(path), tmp_path)
        assert remote | {"model": ""} == local | {"model": ""}
    # Of a GGUF the vocabulary comes before the directory: 1.7 of 98 MB.
    assert hub.sent_bytes - sent < len(demo_path.read_bytes()) / 40
    assert not list((tmp_path / "hf").rglob("*.gguf"))
