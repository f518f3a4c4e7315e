"""SentencePiece vocabularies as GGUF files of several families spell them, against llama.cpp; broken ones."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pascaline.checkpoint.checkpoint import TokenizerSource
from pascaline.core.errors import CheckpointError
from pascaline.text.sentencepiece_merges import merges_from_scores
from pascaline.text.tokenizer import Tokenizer, load_tokenizer

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures/tokenizer/sentencepiece_ids.json").read_text())
TEXTS: list[str] = FIXTURE["texts"]
VOCABULARIES: dict[str, dict[str, Any]] = FIXTURE["vocabularies"]


def _load(name: str, **changes: object) -> Tokenizer:
    values = {"model": "llama", **VOCABULARIES[name], **changes}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    return load_tokenizer(TokenizerSource(None, metadata, None, None))


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_are_those_of_llama_cpp(name: str) -> None:
    tokenizer = _load(name)
    assert len(set(FIXTURE["digests"][name])) > 200
    for text, expected in zip(TEXTS, FIXTURE["digests"][name], strict=True):
        ids = tokenizer.encode(text)
        assert hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12] == expected, text


def test_gemma_puts_no_space_before_a_text_and_keeps_runs() -> None:
    tokenizer = _load("gemma")
    text = "a\n\n\nb   c\t\t<h1>"
    ids = tokenizer.encode(text)
    assert ids[0] == 2
    assert [tokenizer.token_text(i) for i in ids[1:]] == ["a", "\n\n\n", "b", "   ", "c", "\t\t", "<h1>"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer.encode("a<end_of_turn>")) == "a"


def test_phi3_marks_swallow_the_space_behind_them() -> None:
    tokenizer = _load("phi3")
    tight = tokenizer.encode("<|user|>Hello<|end|><|assistant|>")
    assert tokenizer.encode("<|user|> \n Hello<|end|>\n<|assistant|>\n") == tight
    assert tokenizer.encode("<|endoftext|> a") != tokenizer.encode("<|endoftext|>a")
    without = [token for token in VOCABULARIES["phi3"]["tokens"] if token != "<|placeholder1|>"]
    renamed = _load("phi3", tokens=[*without[:260], "other", *without[260:]])
    assert len(renamed.encode("<|user|>\n")) > len(tokenizer.encode("<|user|>\n"))


@pytest.mark.parametrize("name", ["gemma", "phi3"])
def test_texts_survive(name: str) -> None:
    """Not so "llama": as in llama.cpp, a text behind a user-defined token begins with a space."""
    tokenizer = _load(name)
    for text in TEXTS:
        if "<" not in text and "[PAD" not in text and "▁" not in text:
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_equal_scores_are_joined_in_the_order_of_their_ids() -> None:
    """Some converters write one score for all. The ids then say in which order the trainer joined."""
    pieces = VOCABULARIES["llama"]["tokens"]
    tied = _load("llama", scores=[-1000.0] * len(pieces))
    trained = _load("llama")
    for text in TEXTS[:40]:
        assert tied.encode(text) == trained.encode(text)


def test_scores_may_be_whole_numbers() -> None:
    whole = [int(score) for score in VOCABULARIES["gemma"]["scores"]]
    assert _load("gemma", scores=whole).encode("the word") == _load("gemma").encode("the word")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "no tokenizer.ggml.scores"),
        ({"scores": [float("nan")]}, r"\d+ tokens but 1 tokenizer\.ggml\.scores"),
        ({"scores": [float("nan")] * 1000}, "scores"),
        ({"scores": ["x"]}, "scores holds values that are not of type float"),
        ({"token_type": [2.0]}, "token_type holds values that are not of type int"),
        ({"unknown_token_id": 1 << 40}, "unknown_token_id is 1099511627776"),
        ({"add_space_prefix": "yes"}, "add_space_prefix is 'yes' and neither true nor false"),
    ],
)
def test_damaged_vocabularies(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        _load("gemma", **changes)


def test_scores_that_are_no_numbers() -> None:
    scores = [*VOCABULARIES["gemma"]["scores"][:-1], float("nan")]
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\.scores holds values that are no finite"):
        _load("gemma", scores=scores)


def test_vocabularies_that_would_blow_up() -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.ggml\.tokens has a piece of 100000 characters"):
        merges_from_scores({"a" * 100_000: 0.0})
    with pytest.raises(CheckpointError, match=r"512 pieces that can be joined in more than 4096 ways"):
        merges_from_scores({"a" * length: 0.0 for length in range(1, 513)})


@pytest.mark.parametrize("unit", ["a", "😀", " ", "字", "ab ", "\n"])
def test_a_long_text_takes_seconds(unit: str) -> None:
    """A megabyte in one piece, measured 0.1 to 0.7 s."""
    text = unit * (10**6 // len(unit.encode()))
    tokenizer = _load("phi3")
    start = time.process_time()
    tokenizer.encode(text)
    assert time.process_time() - start < 8
