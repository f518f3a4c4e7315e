"""Files that ask for more than they hold, each refused within 2 s and 64 MiB, with a message that says why.

The small ones are the smallest inputs of what fuzz runs found; the large ones are those that a fuzzer does
not make.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_seeds
import pytest
import seeds
import targets
from gguf_mutation import GgufParts, Tensor
from oracle import Oracle

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.safetensors_file import SafetensorsFile
from pascaline.core.errors import CheckpointError, PascalineError
from pascaline.core.progress import ignore_progress
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.start import start
from pascaline.layers.rotary import inverse_frequencies
from pascaline.models import read_config
from pascaline.report.run_record import read_record
from pascaline.text.chat_template import ChatTemplate
from pascaline.text.tokenizer import load_tokenizer

MILLION = 1_000_000
SMALL_CONFIG: dict[str, Any] = json.loads(seeds.folders()[0])["config.json"]


def refused(read: Callable[[], object], nbytes: int, message: str) -> None:
    """`read` is refused with `message`, in time and memory; it works on a file of so many bytes."""
    messages: list[str] = []

    def note() -> None:
        try:
            read()
        except PascalineError as error:
            messages.append(str(error))
            raise

    finding = Oracle(PascalineError).check(note, nbytes)
    assert finding is None, finding.detail
    assert len(messages) == 1
    assert re.search(message, messages[0]), messages[0]


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def array(kind: int, count: int, items: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + items


def small_gguf() -> GgufParts:
    return GgufParts.parse(gguf_seeds.gguf_models()[0])


def refused_gguf(folder: Path, parts: GgufParts, message: str) -> None:
    path = folder / "model.gguf"
    path.write_bytes(parts.to_bytes())

    def read() -> None:
        checkpoint = open_checkpoint(path)
        try:
            targets.read_model(checkpoint)
            if any(key == b"tokenizer.ggml.tokens" for key, _, _ in parts.keys):
                load_tokenizer(checkpoint.tokenizer_source())
        finally:
            checkpoint.close()

    refused(read, path.stat().st_size, message)


GGUF_KEYS: dict[str, tuple[bytes, int, bytes, str]] = {
    "texts that claim 2^60 bytes": (b"a", 8, struct.pack("<Q", 1 << 60), "runs past the file's end"),
    "an array of 2^60 texts": (b"a", 9, array(8, 1 << 60, b""), "at most 65536"),
    "10^7 empty texts": (b"tokenizer.x", 9, array(8, 10 * MILLION, bytes(80 * MILLION)), "at most 2097152"),
    "a number for each of 10^6 layers": (b"llama.x", 9, array(0, MILLION, bytes(MILLION)), "at most 65536"),
    "arrays in arrays": (b"a", 9, array(9, 1, array(4, 0, b"")), "array of arrays"),
    "a text of 4 MB": (b"tokenizer.chat_template", 8, text(b"{" * 4 * MILLION), "4000000 bytes"),
    "a scale whose inverse square is infinite": (
        b"llama.attention.scale",
        12,
        struct.pack("<d", 1e-200),
        "query_pre_attn_scalar is inf",
    ),
}


@pytest.mark.parametrize("case", GGUF_KEYS)
def test_a_ggufs_metadata(tmp_path: Path, case: str) -> None:
    key, kind, value, message = GGUF_KEYS[case]
    parts = small_gguf()
    parts.keys.append((key, kind, value))
    refused_gguf(tmp_path, parts, message)


def test_a_ggufs_directory(tmp_path: Path) -> None:
    parts = small_gguf()
    parts.keys += [(b"k%d" % number, 0, b"\0") for number in range(70_000)]
    refused_gguf(tmp_path, parts, "at most 65536 of each")
    parts = small_gguf()
    parts.tensors[0].shape = [1 << 63, 1 << 63, 1 << 63, 1 << 63]
    refused_gguf(tmp_path, parts, "ends at byte")
    parts = small_gguf()
    parts.tensors.append(Tensor(b"\x1b[2J", [32], 0, 0))
    refused_gguf(tmp_path, parts, r"\\x1b\[2J overlap")


def test_a_vocabulary_of_control_tokens(tmp_path: Path) -> None:
    count = 200_000
    tokens = b"".join(text(b"%d" % number) for number in range(count))
    metadata = {
        "tokenizer.ggml.model": (8, text(b"gpt2")),
        "tokenizer.ggml.tokens": (9, array(8, count, tokens)),
        "tokenizer.ggml.token_type": (9, array(5, count, struct.pack("<i", 3) * count)),
        "tokenizer.ggml.merges": (9, array(8, 0, b"")),
    }
    parts = small_gguf()
    parts.keys += [(key.encode(), kind, value) for key, (kind, value) in metadata.items()]
    refused_gguf(tmp_path, parts, "200000 control and user-defined tokens")


def write_safetensors(path: Path, header: object, nbytes: int = 0) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(nbytes))


SAFETENSORS_HEADERS: dict[str, tuple[object, str]] = {
    "10^6 lists": (b'{"a":[' + b"[]," * MILLION + b"[]]}", "more than the 524288"),
    "a header of 9 MB": (b'{"a":"' + b"a" * 9 * MILLION + b'"}', "a header of 9000008 bytes"),
    "400 000 axes": (
        b'{"a":{"dtype":"F32","shape":[' + b"2," * 400_000 + b'2],"data_offsets":[0,0]}}',
        "a dtype, a shape",
    ),
    "numbers of 4 300 digits": (
        {"a": {"dtype": "F32", "shape": [10**4299, 10**4299], "data_offsets": [0, 10**4299]}},
        "a dtype, a shape",
    ),
    "deep lists": (b'{"a":' + b"[" * 980 + b"]" * 980 + b"}", "in more than 64 others"),
    "a name that is no Unicode": ({"\ud800": 1}, r"entry of \\ud800 is 1"),
    "a name that steers the terminal": ({"\x1b[2J": 1}, r"entry of \\x1b\[2J is 1"),
    "a name of 100 000 characters": ({"a" * 100_000: 1}, "has 100000 characters"),
}


@pytest.mark.parametrize("case", SAFETENSORS_HEADERS)
def test_a_safetensors_header(tmp_path: Path, case: str) -> None:
    header, message = SAFETENSORS_HEADERS[case]
    path = tmp_path / "model.safetensors"
    write_safetensors(path, header)
    refused(lambda: SafetensorsFile(path), path.stat().st_size, message)


def write_folder(folder: Path, **files: object) -> None:
    """The small Llama, with some of its files replaced; "__" in a name stands for a dot, None for no file."""
    whole = json.loads(seeds.folders()[0])
    whole |= {name.replace("__", "."): content for name, content in files.items()}
    header, nbytes = whole.pop("model.safetensors") or (None, 0)
    if header is not None:
        write_safetensors(folder / "model.safetensors", header, nbytes)
    for name, content in whole.items():
        if content is not None:
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def refused_folder(folder: Path, message: str) -> None:
    nbytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    refused(lambda: targets.read_model(open_checkpoint(folder)), nbytes, message)


FOLDERS: dict[str, tuple[dict[str, object], str]] = {
    "end tokens without end": (
        {"config__json": SMALL_CONFIG | {"eos_token_id": list(range(100_000))}},
        "lists 100000 tokens",
    ),
    "a weight file with a long name": (
        {"model__safetensors": None, "model.safetensors.index__json": {"weight_map": {"t": "f" * 5000}}},
        "lacks 1 of 1 weight files",
    ),
    "100 000 weight files that are not there": (
        {
            "model__safetensors": None,
            "model.safetensors.index__json": {"weight_map": {f"t{i}": f"f{i}" for i in range(100_000)}},
        },
        "lacks 100000 of 100000 weight files",
    ),
    "a weight file elsewhere": (
        {"model__safetensors": None, "model.safetensors.index__json": {"weight_map": {"t": "../f"}}},
        "a file of the same folder",
    ),
    "a template of no kind": ({"tokenizer_config__json": {"chat_template": 5}}, "the chat template is int"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_model_folder(tmp_path: Path, case: str) -> None:
    files, message = FOLDERS[case]
    write_folder(tmp_path, **files)
    refused_folder(tmp_path, message)


def test_templates_whose_names_are_lists_are_passed_over(tmp_path: Path) -> None:
    templates = [{"name": [], "template": "a"}, {"name": "default", "template": "b"}]
    write_folder(tmp_path, tokenizer_config__json={"chat_template": templates})
    assert open_checkpoint(tmp_path).chat_template == "b"


def test_a_vocabulary_of_50_gb(tmp_path: Path) -> None:
    write_folder(tmp_path)
    os.truncate(tmp_path / "tokenizer.json", 50 << 30)
    source = open_checkpoint(tmp_path).tokenizer_source()
    refused(lambda: load_tokenizer(source), 0, "has 50.*GiB .expected at most 128")


def test_settings_of_50_gb(tmp_path: Path) -> None:
    write_folder(tmp_path)
    os.truncate(tmp_path / "config.json", 50 << 30)
    refused_folder(tmp_path, "larger than 16 MiB")


def test_a_pipe_among_the_files_keeps_nobody_waiting(tmp_path: Path) -> None:
    write_folder(tmp_path, model__safetensors=None)
    os.mkfifo(tmp_path / "other.safetensors")
    refused_folder(tmp_path, "it is not a file")
    os.mkfifo(tmp_path / "model.gguf")
    refused(lambda: open_checkpoint(tmp_path / "model.gguf"), 0, "a pipe or a device")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10_000_000}, "from 1 to 1024"),
        ({"num_hidden_layers": 1024}, "has no tensor 'model.layers.1"),
        ({"hidden_size": 1 << 24}, "embed_tokens.weight' has shape"),
        ({"vocab_size": 1 << 24}, "embed_tokens.weight' has shape"),
        ({"intermediate_size": 1 << 24}, "gate_proj.weight' has shape"),
        ({"head_dim": 1 << 24}, "head_dim is 16777216"),
        ({"num_attention_heads": 1 << 16, "head_dim": 1 << 16}, "65536 attention heads of 65536 elements"),
        (
            {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": None, "hidden_size": 1 << 24},
            "1 attention heads of 16777216",
        ),
        ({"max_position_embeddings": 1 << 40}, "from 1 to 1073741824"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_slow": 5e-324}}, "beta_slow is 5e-324"),
    ],
)
def test_a_configuration_that_is_consistent_and_absurd(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_folder(tmp_path, config__json=SMALL_CONFIG | changes)
    refused_folder(tmp_path, message)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "rope_theta": 1 + 2**-52,
            "head_dim": 512,
            "max_position_embeddings": 1 << 30,
            "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1e-3},
        },
        {
            "max_position_embeddings": 1,
            "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8},
        },
    ],
)
def test_rotary_frequencies_at_the_edge_of_what_is_allowed(changes: dict[str, object]) -> None:
    frequencies, factor = inverse_frequencies(read_config(SMALL_CONFIG | changes), 64)
    assert frequencies.isfinite().all()
    assert factor > 0


def test_an_engine_takes_what_the_plan_says_whatever_context_is_declared(tmp_path: Path) -> None:
    write_folder(tmp_path, config__json=SMALL_CONFIG | {"max_position_embeddings": 1 << 30})
    config = EngineConfig(str(tmp_path), device="cpu", max_sequences=4, pages=64)
    started = []
    finding = Oracle(PascalineError).check(lambda: started.append(start(config, ignore_progress)), 0)
    assert finding is None, finding.detail
    assert started[0].plan.max_model_len == 64 * 16
    assert started[0].ready.kv_bytes == started[0].plan.kv_bytes < 1 << 20


def test_a_record_of_a_million_lists(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b'{"schema":1,"model":{"a":[' + b"[]," * 2 * MILLION + b"[]]}}")
    refused(lambda: read_record(path), path.stat().st_size, "more lists than any run")
    path.write_bytes(b'{"schema":1,"model":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}")
    refused(lambda: read_record(path), path.stat().st_size, "recursion")
    path.write_bytes(b"")
    os.truncate(path, 50 << 30)
    refused(lambda: read_record(path), 64 << 20, "larger than 64 MiB")


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}" + "{% if i %}{% endif %}" * 4000 + "{% endfor %}",
        "{% for i in range(99999) if [" + "i," * 20_000 + "] and false %}{% endfor %}",
        "{% macro m(n) %}" + "{% if n %}{% endif %}" * 4000 + "{% endmacro %}"
        "{% for i in range(99999) %}{{ m(i) }}{% endfor %}",
        "{% macro m(n=["
        + "1," * 20_000
        + "]) %}{% endmacro %}{% for i in range(99999) %}{{ m() }}{% endfor %}",
        "{% block b %}" + "{% if n %}{% endif %}" * 4000 + "{% endblock %}"
        "{% for i in range(9999) %}{{ self.b() }}{% endfor %}",
        "{% if a %}{% endif %}" * 45_000,
        "{% for i in range(99999) %}{{ strftime_now('%c%c%c%c') }}{% endfor %}",
    ],
)
def test_a_long_body_that_runs_often(template: str) -> None:
    def render() -> None:
        ChatTemplate(template, None, None).render([{"role": "user", "content": "hello"}])

    refused(render, len(template), "was stopped")


def test_messages_are_short_and_printable() -> None:
    error = CheckpointError("a\ud800\x1b[2J\u202eb" + "x" * 10**6, expected="\0", remedy="one\ntwo")
    assert str(error).startswith(r"a\ud800\x1b[2J\u202ebxxx")
    assert len(str(error)) < 2100
    assert str(error).encode().endswith(b"(expected \\x00). one\ntwo")
