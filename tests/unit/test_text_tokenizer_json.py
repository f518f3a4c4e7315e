"""Tokenizers that come as a tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from pascaline.checkpoint.checkpoint import TokenizerSource
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError
from pascaline.text.tokenizer import Tokenizer, load_tokenizer


def _byte_level() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    backend.add_tokens([AddedToken("é ü", normalized=False)])
    return backend


def _space_marked(decoder: decoders.Decoder) -> tokenizers.Tokenizer:
    vocabulary = {
        "<unk>": 0,
        "▁": 1,
        "a": 2,
        "▁a": 3,
        "é": 4,
        "<0xE5>": 5,
        "<0xAD>": 6,
        "<0x97>": 7,
        "<0xZZ>": 8,
    }
    model = models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoder
    return backend


LLAMA_DECODER = [
    decoders.Replace("▁", " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
    decoders.Strip(" ", 1, 0),
]


def _load(backend: tokenizers.Tokenizer, folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    backend.save(str(path))
    return load_tokenizer(TokenizerSource(path, None, "<s>", None))


def test_byte_level(tmp_path: Path) -> None:
    tokenizer = _load(_byte_level(), tmp_path)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", None)
    assert tokenizer.vocab_size == 258
    text = "é ü字\n<|end|>"
    ids = tokenizer.encode(text)
    assert (ids[0], ids[-1]) == (257, 256)
    assert tokenizer.decode(ids) == "é ü字\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.token_bytes(257) == "é ü".encode()
    assert b"".join(map(tokenizer.token_bytes, ids[1:4])) == "字".encode()


def test_byte_level_inside_of_a_sequence(tmp_path: Path) -> None:
    backend = _byte_level()
    backend.decoder = decoders.Sequence([decoders.ByteLevel()])
    assert _load(backend, tmp_path).decode(_byte_level().encode("字").ids) == "字"


@pytest.mark.parametrize(
    "decoder",
    [decoders.Sequence(LLAMA_DECODER), decoders.Metaspace("▁", "first")],
    ids=["llama", "metaspace"],
)
def test_space_marks_drop_the_first_space(tmp_path: Path, decoder: decoders.Decoder) -> None:
    backend = _space_marked(decoder)
    tokenizer = _load(backend, tmp_path)
    ids = tokenizer.encode("a a  aé")
    assert ids == [3, 3, 1, 3, 4]
    assert tokenizer.decode(ids) == backend.decode(ids) == "a a  aé"
    assert tokenizer.token_bytes(3) == b" a"


@pytest.mark.parametrize(
    "decoder",
    [decoders.Sequence(LLAMA_DECODER[:-1]), decoders.Metaspace("▁", "never")],
    ids=["llama", "metaspace"],
)
def test_space_marks_that_keep_the_first_space(tmp_path: Path, decoder: decoders.Decoder) -> None:
    tokenizer = _load(_space_marked(decoder), tmp_path)
    assert tokenizer.decode([3, 3]) == " a a"


def test_byte_fallback(tmp_path: Path) -> None:
    tokenizer = _load(_space_marked(decoders.Sequence(LLAMA_DECODER)), tmp_path)
    assert tokenizer.encode("字") == [1, 5, 6, 7]
    assert tokenizer.decode([1, 5, 6, 7]) == "字"
    assert tokenizer.decode([5, 6]) == "\ufffd"
    assert tokenizer.token_bytes(8) == b"<0xZZ>"


def test_the_files_truncation_and_padding_are_ignored(tmp_path: Path) -> None:
    backend = _byte_level()
    backend.enable_truncation(3)
    backend.enable_padding(length=16)
    assert len(_load(backend, tmp_path).encode("abcdef")) == 6


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), None])
def test_other_kinds_are_refused_by_name(tmp_path: Path, decoder: Any) -> None:
    backend = _byte_level()
    backend.decoder = decoder
    with pytest.raises(UnsupportedError, match="WordPiece" if decoder else "no rule at all"):
        _load(backend, tmp_path)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match=r"no file .*tokenizer\.json"):
        load_tokenizer(TokenizerSource(path, None, None, None))
    path.write_text(json.dumps({"version": "1.0"}))
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        load_tokenizer(TokenizerSource(path, None, None, None))
    with pytest.raises(CheckpointError, match="brings no tokenizer"):
        load_tokenizer(TokenizerSource(None, None, None, None))


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="surrogate"):
        _load(_byte_level(), tmp_path).encode("a\ud83d")
