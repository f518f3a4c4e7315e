"""Weights that are made up: in the forms that a checkpoint has them in, as large, finite and repeatable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_holdings import CASES, Case

from pascaline.checkpoint.dummy_checkpoint import DummyCheckpoint
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.sampling_params import SamplingParams
from pascaline.formats import FORMATS, weight_reader
from pascaline.llm.offline import LLM
from pascaline.llm.outputs import RequestResult
from pascaline.weights import Dense, Packed, Weight
from pascaline.weights.slab_layout import form_of
from pascaline.workload.holdings import held_weights, resident_bytes, settled_tying
from pascaline.workload.stored_weight import StoredTensor
from pascaline.workload.told_directory import open_dummy

BY_NAME = {case.name: case for case in CASES}
NOT_TOLD = (
    "gptq v2, fp32 scales",  # settings do not say of what type scales are
    "gptq, overrides",
    "awq, modules kept",  # by a regular expression, which AutoAWQ has not
    "compressed-tensors, bytes of zeros",  # as releases before 0.9.4 wrote them
)
TOLD = [case for case in CASES if case.type_name is None and case.name not in NOT_TOLD]
GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True, logprobs=1)


def without_weights(folder: Path) -> Path:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return folder


def answer(path: Path, **settings: object) -> tuple[LLM, RequestResult]:
    llm = LLM(path, device="cpu", load_format="dummy", pages=64, max_sequences=2, **settings)  # type: ignore[arg-type]
    [result] = llm.generate([[5, 6, 7, 8]], GREEDY)
    return llm, result


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case.name)
def test_settings_tell_the_directory_that_tools_write(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path)
    written = open_checkpoint(tmp_path)
    there = dict(written.tensors)
    written.close()
    told = open_dummy(without_weights(tmp_path)).tensors
    assert told == there


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_whole_checkpoint_serves_without_its_data(case: Case, tmp_path: Path) -> None:
    path = case.write(tmp_path)
    llm, result = answer(path)
    checkpoint = open_dummy(path)
    config = settled_tying(llm.core._runner.model.config, checkpoint)  # type: ignore[attr-defined]
    planned = resident_bytes(held_weights(checkpoint, config), "tiled")
    assert llm.ready.weights_bytes == planned
    assert not any("more than planned" in note for note in llm.ready.notes)
    # Logits are about 1, of rows about 1 long and normed inputs: of so many tokens none is near certain,
    # unless the head is the embedding, and most of what it sees the token that was read.
    [completion] = result.completions
    assert completion.logprobs is not None
    most = 0.0 if config.tie_word_embeddings else -0.5
    assert all(-12 < item.logprob <= most for item in completion.logprobs)


def test_it_is_the_same_model_every_time_and_reads_no_data(tmp_path: Path) -> None:
    BY_NAME["gptq, act-order, zeros"].write(tmp_path)
    _, whole = answer(tmp_path)
    damaged = bytearray((tmp_path / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(damaged[:8], "little")
    damaged[start:] = bytes([0xFF]) * (len(damaged) - start)  # NaNs
    (tmp_path / "model.safetensors").write_bytes(damaged)
    _, of_damaged = answer(tmp_path)
    _, of_settings = answer(without_weights(tmp_path))
    numbers = [
        [(item.token_id, item.logprob) for item in result.completions[0].logprobs or ()]
        for result in (whole, of_damaged, of_settings)
    ]
    assert numbers[0] == numbers[1] == numbers[2]


def made_up(name: str, shape: tuple[int, int], path: Path) -> Weight:
    reader = weight_reader(open_dummy(path))
    return reader.locate(name, shape).load()


@pytest.mark.parametrize("type_name", sorted(FORMATS))
def test_values_are_as_large_as_a_trained_models(type_name: str, tmp_path: Path) -> None:
    path = BY_NAME[f"llama, {type_name}"].write(tmp_path)
    shape = (512, 256)
    weight = made_up("blk.0.ffn_gate.weight", shape, path)
    values = torch.empty(shape, dtype=torch.float64)
    weight.dequantise(0, shape[0], values)
    # 1/√K times the spread of scales, √(1 + 1/12); exponents are one below or above their own, and rounded.
    rms = values.square().mean().sqrt().item() * shape[1] ** 0.5
    low, high = (0.5, 3.0) if type_name == "MXFP4" else (0.95, 1.15)
    assert low < rms < high
    assert abs(values.mean().item()) * shape[1] ** 0.5 < 0.25
    stored = StoredTensor("", type_name, shape)
    if isinstance(weight, Packed):
        told = stored.form
        assert form_of(weight) == type(told)(**{**vars(told), "type_name": ""})
    else:
        assert isinstance(weight, Dense)
        assert weight.tensor.element_size() * 8 == stored.form.bits


def test_without_a_vocabulary_token_ids_are_answered_and_text_is_refused(tmp_path: Path) -> None:
    BY_NAME["llama"].write(tmp_path)
    llm, result = answer(without_weights(tmp_path))
    assert len(result.completions[0].token_ids) == 3
    assert result.completions[0].text == ""
    with pytest.raises(ConfigError, match=r"token ids alone: .* has no tokenizer\.json"):
        llm.generate("text")


def test_what_settings_do_not_tell_is_refused(tmp_path: Path) -> None:
    BY_NAME["gptq, overrides"].write(tmp_path)
    with pytest.raises(UnsupportedError, match=r"quantization_config\.dynamic"):
        open_dummy(without_weights(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "float8_e4m3fn"}))
    with pytest.raises(UnsupportedError, match="dtype is 'float8_e4m3fn'"):
        open_dummy(tmp_path)


def test_settings_alone_are_no_model_unless_a_dummy_is_asked_for(tmp_path: Path) -> None:
    BY_NAME["llama"].write(tmp_path)
    with pytest.raises(CheckpointError, match="no weights in safetensors format"):
        LLM(without_weights(tmp_path), device="cpu")
    with pytest.raises(ConfigError, match="load_format is 'none'"):
        EngineConfig(str(tmp_path), load_format="none")  # type: ignore[arg-type]


def test_a_dummy_gives_no_data(tmp_path: Path) -> None:
    BY_NAME["llama"].write(tmp_path)
    checkpoint = DummyCheckpoint(open_checkpoint(tmp_path))
    with pytest.raises(CheckpointError, match="is asked for"):
        checkpoint.read("model.norm.weight")
