"""The readers that are fuzzed: for each its seeds, its mutations, and how it is run on bytes.

A target takes bytes and either returns or raises a PascalineError. Models go as far as their first
step would: opened, their settings parsed, built on torch's meta device, their weights found and loaded.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import gguf_mutation
import gguf_seeds
import import_seeds
import json_mutation
import seeds
import template_mutation
import torch

from pascaline.checkpoint.checkpoint import Checkpoint, TensorEntry, TokenizerSource
from pascaline.checkpoint.hub_listing import parse_listing
from pascaline.checkpoint.hub_reference import HubReference
from pascaline.checkpoint.hub_selection import gguf_names, settings_names
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.safetensors_file import SafetensorsFile
from pascaline.core.errors import CheckpointError
from pascaline.engine.loader import find_weights, load_rope_factors
from pascaline.formats import WeightReader
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.layers.decoder import build
from pascaline.layers.rotary import inverse_frequencies
from pascaline.models import read_config
from pascaline.plan.memory import MemoryRequest, divide
from pascaline.report.compare import compare
from pascaline.report.importers import open_record
from pascaline.report.run_record import read_record, to_json
from pascaline.text.chat_template import ChatTemplate
from pascaline.text.tokenizer import load_tokenizer
from pascaline.workload.holdings import resident_bytes

_CPU = torch.device("cpu")
_ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I64": 8, "I8": 1, "U8": 1}
_MAX_TENSOR_BYTES = 1 << 18
_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi.\n" * 5}]
_TEXTS = ("Hello, world! 12345", "▁x<s>\u0000 ʼn̈ 😀\n\n  ", "")


@dataclass(frozen=True)
class Target:
    """`read` is given the folder that it may write to."""

    seeds: Callable[[], Sequence[bytes]]
    mutate: Callable[[bytes, Random], bytes | None]
    read: Callable[[bytes, Path], None]


def read_model(checkpoint: Checkpoint) -> None:
    """As the engine starts, without its pages."""
    config = read_config(checkpoint.hf_config, checkpoint.container)
    launcher = Launcher(Policy(Chip(_CPU), KERNELS))
    model = build(config, launcher)
    found = find_weights(model, checkpoint)
    held = [item for place in found for item in place.held()]
    _settle_context(config, resident_bytes(held, "packed"))
    factors = load_rope_factors(checkpoint, config.rotary_dimensions // 2)
    model.rotary.build(64, factors)
    for place in found:
        for stored, _ in place.stored:
            stored.load()


def _settle_context(config: ModelConfig, weights_bytes: int) -> None:
    request = MemoryRequest("cpu", 16 << 30, 0.9, weights_bytes, 512, 16, None, None, 4)
    inverse_frequencies(config, divide(config, request).max_model_len)


def _read_gguf(data: bytes, folder: Path) -> None:
    path = folder / "model.gguf"
    path.write_bytes(data)
    checkpoint = open_checkpoint(path)
    try:
        source = checkpoint.tokenizer_source() if b"tokenizer.ggml.tokens" in data else None
        read_model(checkpoint)
    finally:
        checkpoint.close()
    if source is not None:
        load_tokenizer(source)


def _read_split(data: bytes, folder: Path) -> None:
    """{"file's name": [[tensors], {key: number}]}: parts of a split model."""
    parts = _json(data)
    folder = _emptied(folder / "split")
    for name, described in parts.items() if isinstance(parts, dict) else ():
        written = gguf_seeds.split_part(described)
        if written is not None and _is_plain(name):
            (folder / name).write_bytes(written)
    paths = sorted(folder.iterdir())
    if not paths:
        raise CheckpointError("no part")
    checkpoint = open_checkpoint(paths[-1])
    for name in checkpoint.tensors:
        checkpoint.read(name)
    checkpoint.close()


def _read_safetensors(data: bytes, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    file = SafetensorsFile(path)
    for name in file.tensors:
        file.read(name)
    file.close()


def _read_folder(data: bytes, folder: Path) -> None:
    """{"file's name": text}: a model folder; a weight file is [its header, bytes behind it]."""
    files = _json(data)
    folder = _emptied(folder / "model")
    for name, content in files.items() if isinstance(files, dict) else ():
        if not _is_plain(name):
            continue
        if isinstance(content, list) and len(content) == 2 and isinstance(content[1], int):
            header = _text_of(content[0])
            length = len(header).to_bytes(8, "little")
            (folder / name).write_bytes(length + header + bytes(min(max(content[1], 0), _MAX_TENSOR_BYTES)))
        else:
            (folder / name).write_bytes(_text_of(content))
    checkpoint = open_checkpoint(folder)
    try:
        if checkpoint.chat_template is not None:
            ChatTemplate(checkpoint.chat_template, None, None)
        read_model(checkpoint)
        checkpoint.tokenizer_source()
    finally:
        checkpoint.close()


def _text_of(content: object) -> bytes:
    text = content if isinstance(content, str) else json.dumps(content)
    return text.encode("utf-8", "surrogatepass")


def _read_config(data: bytes, _: Path) -> None:
    config = _json(data)
    if isinstance(config, dict):
        parsed = read_config(config, "gguf" if config.get("container") == "gguf" else "safetensors")
        inverse_frequencies(parsed, 64)
        _settle_context(parsed, 0)


class _Memory:
    """Tensors described by JSON, as an opened model folder: {name: [type, shape, its bytes' pattern]}."""

    container = "safetensors"
    chat_template = None
    path = Path("memory")

    def __init__(self, config: Mapping[str, object], described: object) -> None:
        self.hf_config = config
        self.tensors: dict[str, TensorEntry] = {}
        self._patterns: dict[str, bytes] = {}
        for name, fields in described.items() if isinstance(described, dict) else ():
            match fields:
                case [str(kind), list(shape), str(pattern)] if kind in _ELEMENT_BYTES and all(
                    type(axis) is int and axis >= 0 for axis in shape
                ):
                    nbytes = math.prod(shape) * _ELEMENT_BYTES[kind]
                    if nbytes <= _MAX_TENSOR_BYTES:
                        self.tensors[name] = TensorEntry(name, kind, tuple(shape), nbytes)
                        self._patterns[name] = pattern.encode("utf-8", "replace") or b"\0"

    def read(self, name: str) -> memoryview:
        nbytes, pattern = self.tensors[name].nbytes, self._patterns[name]
        return memoryview(bytearray((pattern * (nbytes // len(pattern) + 1))[:nbytes]))


def _read_quantised(data: bytes, _: Path) -> None:
    """{"quantization_config", "shape", "tensors"}: one linear called "m"."""
    described = _json(data)
    if not isinstance(described, dict):
        return
    memory: Any = _Memory(described, described.get("tensors"))
    match described.get("shape"):
        case [int(rows), int(columns)] if 0 < rows < 2**24 and 0 < columns < 2**24:
            WeightReader.of(memory).locate("m.weight", (int(rows), int(columns))).load()


def _read_vocabulary(data: bytes, _: Path) -> None:
    # The texts of a GGUF are UTF-8, or it is refused before.
    metadata = _json(json.dumps(_json(data), ensure_ascii=False).encode("utf-8", "replace"))
    if isinstance(metadata, dict):
        _use_tokenizer(TokenizerSource(None, metadata, None, None))


def _read_tokenizer_json(data: bytes, folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(data)
    _use_tokenizer(TokenizerSource(path, None, None, None))


def _use_tokenizer(source: TokenizerSource) -> None:
    tokenizer = load_tokenizer(source)
    for text in _TEXTS:
        tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False)
    tokenizer.decode(list(range(20)))


def _read_template(data: bytes, _: Path) -> None:
    ChatTemplate(data.decode("utf-8", "replace"), "<s>", "</s>").render(_MESSAGES)


def _read_listing(data: bytes, _: Path) -> None:
    listing = parse_listing(data)
    for written in ("a/b", "a/b:Q4_K_M", "a/b/model-Q4_0.gguf"):
        wanted = HubReference.parse(written)
        if wanted is not None:
            try:
                gguf_names(wanted, listing)
            except CheckpointError:
                continue
    settings_names(listing)


def _read_record(data: bytes, folder: Path) -> None:
    path = folder / "record.json"
    path.write_bytes(data)
    to_json(read_record(path))


def _read_imported(data: bytes, folder: Path) -> None:
    """Whatever others recorded, as `pascaline compare` takes it."""
    path = folder / "imported"
    path.write_bytes(data)
    record = open_record(path)
    to_json(record)
    compare(record, record, "a", "b")


def _read_export(data: bytes, folder: Path) -> None:
    """[SQL statement, …]: an export of Nsight Systems."""
    statements = _json(data)
    path = folder / "export.sqlite"
    path.unlink(missing_ok=True)
    if not isinstance(statements, list):
        return
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_TENSOR_BYTES)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")  # else each of thousands of statements waits for the disk
        for statement in statements:
            with suppress(sqlite3.Error, sqlite3.Warning, ValueError, OverflowError):
                if isinstance(statement, str) and statement.startswith(("CREATE TABLE", "INSERT")):
                    connection.execute(statement)
        connection.execute("COMMIT")
    if path.stat().st_size:
        to_json(open_record(path))


def _json(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def _is_plain(name: str) -> bool:
    """Whether the harness itself can make a file of that name."""
    nbytes = len(name.encode("utf-8", "replace"))
    return 0 < nbytes < 200 and name not in (".", "..") and "/" not in name and name.isprintable()


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _json_changes(keys: Sequence[str], *, text: float = 0.1) -> Callable[[bytes, Random], bytes | None]:
    def mutate(data: bytes, random: Random) -> bytes | None:
        value = _json(data)
        if value is None:
            return None
        changed = json.dumps(json_mutation.mutate_json(value, random, keys))
        if random.random() < text:
            changed = json_mutation.mutate_text(changed, random)
        return changed.encode("utf-8", "surrogatepass")

    return mutate


def _mutate_safetensors(data: bytes, random: Random) -> bytes | None:
    length = int.from_bytes(data[:8], "little")
    header = _json(data[8 : 8 + length])
    if not isinstance(header, dict):
        return None
    text = json.dumps(json_mutation.mutate_json(header, random, ("__metadata__", "F64", "BF16")))
    if random.random() < 0.2:
        text = json_mutation.mutate_text(text, random)
    raw = text.encode("utf-8", "surrogatepass")
    claimed = len(raw)
    if random.random() < 0.1:
        claimed = random.choice(gguf_mutation.INTEGERS)
    return claimed.to_bytes(8, "little") + raw + data[8 + length :]


def _mutate_lines(data: bytes, random: Random) -> bytes | None:
    """Changes to a table's text."""
    text = data.decode("utf-8", "replace")
    return json_mutation.mutate_text(text, random).encode("utf-8", "surrogatepass")


TARGETS: dict[str, Target] = {
    "gguf": Target(gguf_seeds.gguf_models, gguf_mutation.mutate_gguf, _read_gguf),
    "gguf_split": Target(
        gguf_seeds.split_models, _json_changes(gguf_seeds.SPLIT_KEYS, text=0.0), _read_split
    ),
    "safetensors": Target(seeds.safetensors_files, _mutate_safetensors, _read_safetensors),
    "folder": Target(seeds.folders, _json_changes(seeds.FILE_NAMES, text=0.0), _read_folder),
    "config": Target(seeds.configs, _json_changes(seeds.CONFIG_KEYS, text=0.0), _read_config),
    "quantised": Target(seeds.quantised, _json_changes(seeds.QUANTISED_KEYS, text=0.0), _read_quantised),
    "vocabulary": Target(
        gguf_seeds.vocabularies, _json_changes(gguf_seeds.VOCABULARY_KEYS, text=0.0), _read_vocabulary
    ),
    "tokenizer_json": Target(seeds.tokenizer_jsons, _json_changes(()), _read_tokenizer_json),
    "template": Target(seeds.templates, template_mutation.mutate_template, _read_template),
    "listing": Target(seeds.listings, _json_changes(()), _read_listing),
    "record": Target(seeds.records, _json_changes(()), _read_record),
    "imported": Target(import_seeds.imported, _json_changes(import_seeds.TRACE_KEYS), _read_imported),
    "kernel_summary": Target(import_seeds.kernel_summaries, _mutate_lines, _read_imported),
    "export": Target(import_seeds.exports, _json_changes((), text=0.0), _read_export),
}
"""By name; each is one fuzz run."""
