"""Tokenizers that come as a tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

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


# Each made the library panic, which is not an Exception.
PANICS = {
    "a merge shorter than its prefix": {"continuing_subword_prefix": "x" * 9},
    "a subword prefix in the middle of a character": {"continuing_subword_prefix": "aé"},
}


@pytest.mark.parametrize("change", PANICS)
def test_files_that_make_the_library_panic(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: str
) -> None:
    settings = json.loads(_space_marked(decoders.Sequence(LLAMA_DECODER)).to_str())
    settings["model"] |= PANICS[change] | {"vocab": {"é": 0, "a": 1, "éa": 2}, "merges": [["é", "a"]]}
    settings["model"]["unk_token"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json cannot be read as a tokenizer: .*Fetch"
    ) as caught:
        load_tokenizer(TokenizerSource(path, None, None, None))
    assert type(caught.value.__cause__).__name__ == "PanicException"
    assert "panicked" in capfd.readouterr().err


def test_a_rule_without_end_is_given_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backend = _byte_level()
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("(a+)+$"), "isolated")
    tokenizer = _load(backend, tmp_path)
    with pytest.raises(ConfigError, match=r"tokenizer fails on this text of 41 characters: .*retry-limit"):
        tokenizer.encode("a" * 40 + "b")
    assert "panicked" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (normalizers.Sequence([normalizers.Replace("a", "a" * 40)] * 3), "more than 64 characters of one"),
        (normalizers.Prepend("a" * 100), "more than 64 characters of one"),
        (
            processors.TemplateProcessing(["<s>"] * 100 + ["$A"], special_tokens=[("<s>", 1)]),
            "more than 64 tokens around a text",
        ),
    ],
    ids=["replacements", "prefix", "template"],
)
def test_rules_that_blow_a_text_up(tmp_path: Path, part: Any, message: str) -> None:
    backend = _byte_level()
    if isinstance(part, processors.PostProcessor):
        backend.post_processor = processors.Sequence([processors.ByteLevel(), part])
    else:
        backend.normalizer = part
    with pytest.raises(CheckpointError, match=message):
        _load(backend, tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 10**5, b'{"a":' * 10**5, b"null", b"3" * 10**6])
def test_files_of_anything(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as a tokenizer"):
        load_tokenizer(TokenizerSource(path, None, None, None))


def test_half_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="surrogate"):
        _load(_byte_level(), tmp_path).encode("a\ud83d")
