"""SentencePiece BPE vocabularies of GGUF files, against the sentencepiece library."""

from __future__ import annotations

import argparse
import io
import json
import random
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pascaline.checkpoint.checkpoint import TokenizerSource
from pascaline.core.errors import CheckpointError
from pascaline.text.detokenizer import IncrementalDetokenizer
from pascaline.text.gguf_vocabulary import build_gguf_vocabulary
from pascaline.text.sentencepiece_merges import merges_from_scores
from pascaline.text.tokenizer import Tokenizer, load_tokenizer

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures/tokenizer/demo_ids.json").read_text())
TEXTS: list[str] = [case["text"] for case in FIXTURE["cases"]]
CONTROL = ("<s>", "</s>", "<unk>")
PLAIN_TEXTS = [text for text in TEXTS if not any(token in text for token in CONTROL)]


@pytest.fixture(scope="module")
def processor() -> sentencepiece.SentencePieceProcessor:
    """A BPE model with 2000 pieces, settings as Llama's, with runs that overlap themselves."""
    lines = [
        line for module in (argparse, textwrap) for line in Path(module.__file__).read_text().splitlines()
    ]
    lines += TEXTS[:60:2]
    lines += [unit * times for unit in ("=", "-", "ab", "aba", "abaab", "    ") for times in range(1, 24)] * 3
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in lines if line.strip()),
        model_writer=model,
        model_type="bpe",
        vocab_size=2000,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def metadata(processor: sentencepiece.SentencePieceProcessor) -> dict[str, object]:
    """The model as a converter writes it into a GGUF."""
    ids = range(processor.get_piece_size())
    kinds = {
        2: processor.is_unknown,
        3: processor.is_control,
        5: processor.is_unused,
        6: processor.is_byte,
    }
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [processor.get_score(i) for i in ids],
        "tokenizer.ggml.token_type": [next((k for k, holds in kinds.items() if holds(i)), 1) for i in ids],
    }


@pytest.fixture(scope="module")
def tokenizer(metadata: dict[str, object]) -> Tokenizer:
    return _load(metadata)


def _load(metadata: dict[str, object]) -> Tokenizer:
    return load_tokenizer(TokenizerSource(None, metadata, None, None))


def test_ids_and_texts_are_those_of_sentencepiece(
    tokenizer: Tokenizer, processor: sentencepiece.SentencePieceProcessor
) -> None:
    for text in PLAIN_TEXTS:
        ids = processor.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer.decode(ids) == processor.decode(ids) == text


def test_runs_that_overlap_themselves(
    tokenizer: Tokenizer, processor: sentencepiece.SentencePieceProcessor
) -> None:
    """Where two splits of one piece compete, sentencepiece takes the leftmost."""
    chooser = random.Random(3)
    parts = ["a", "b", " ", "=", "-", "ab", "aba", "    ", "x", "e", "th", "\n"]
    for _ in range(3000):
        text = "".join(chooser.choice(parts) for _ in range(chooser.randint(1, 60)))
        assert tokenizer.encode(text, add_special_tokens=False) == processor.encode(text), text


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="▁")))
def test_every_text_survives(
    tokenizer: Tokenizer, processor: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    assume(not any(token in text for token in CONTROL))
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    if "\0" not in text:  # sentencepiece drops it
        assert ids == processor.encode(text)


def test_defaults_are_those_of_llama_cpp(tokenizer: Tokenizer, metadata: dict[str, object]) -> None:
    """BOS (id 1) yes, EOS (id 2) no, a space before the text and after each control token."""
    assert tokenizer.encode("")[0] == 1
    word = tokenizer.encode("word", add_special_tokens=False)
    assert tokenizer.token_bytes(word[0]).startswith(b" ")
    assert tokenizer.encode("word") == [1, *word]
    assert tokenizer.encode("word</s>word") == [1, *word, 2, *word]
    changed = {
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
    }
    without = _load({**metadata, **changed}).encode(" word")
    assert without == [*word, 2]
    assert _load({**metadata, **changed}).decode(without) == " word"


def test_control_tokens_are_not_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a b</s>")
    assert ids[0] == 1
    assert tokenizer.decode(ids) == "a b"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s> a b</s>"


def test_bytes_of_tokens(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokenizer.token_bytes(tokens.index("<0x0A>")) == b"\n"
    assert tokenizer.token_bytes(tokens.index("<0xF0>")) == b"\xf0"
    assert tokenizer.token_text(tokens.index("<0xF0>")) == "\ufffd"
    assert tokenizer.token_text(tokens.index("▁the")) == " the"
    assert tokenizer.token_bytes(0) == b"<unk>"


def test_user_defined_tokens_are_found_in_text(metadata: dict[str, Any]) -> None:
    changed = {
        "tokenizer.ggml.tokens": [*metadata["tokenizer.ggml.tokens"], "<tool>"],
        "tokenizer.ggml.scores": [*metadata["tokenizer.ggml.scores"], 0.0],
        "tokenizer.ggml.token_type": [*metadata["tokenizer.ggml.token_type"], 4],
    }
    tokenizer = _load({**metadata, **changed})
    ids = tokenizer.encode("a<tool>")
    assert ids[-1] == 2000
    assert tokenizer.decode(ids) == "a<tool>"


def test_a_vocabulary_of_32000_builds_fast() -> None:
    """Llama 2's size. Measured 0.2 s; the bound leaves room for a busy machine."""
    chooser = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz▁"
    words = list(dict.fromkeys(["<unk>", "<s>", "</s>", *letters]))
    seen = set(words)
    while len(words) < 32000:
        word = words[chooser.randrange(3, len(words))] + chooser.choice(letters)
        if len(word) <= 16 and word not in seen:
            seen.add(word)
            words.append(word)
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(words))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[1] * (len(words) - 3)],
    }
    start = time.process_time()
    build_gguf_vocabulary(metadata)
    assert time.process_time() - start < 1.0


def test_merges_of_a_small_vocabulary() -> None:
    pieces = {"a": -9.0, "b": -9.0, "ab": -1.0, "aba": -3.0, "ba": -2.0, "xy": -4.0}
    assert merges_from_scores(pieces) == [("a", "b"), ("b", "a"), ("a", "ba"), ("ab", "a")]


def test_scores_must_fit_the_tokens(metadata: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"2000 tokens but 1 tokenizer\.ggml\.scores"):
        _load({**metadata, "tokenizer.ggml.scores": [0.0]})


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.integers(-1, 2001) | st.integers(0, 262), max_size=30), skip=st.booleans(), data=st.data()
)
def test_pieces_of_any_ids_join_to_their_text(
    tokenizer: Tokenizer, ids: list[int], skip: bool, data: st.DataObject
) -> None:
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    detokenizer = IncrementalDetokenizer(tokenizer, skip_special_tokens=skip)
    pieces = [detokenizer.push(token_id) for token_id in ids]
    assert "".join(pieces) + detokenizer.finish() == whole
    cut = data.draw(st.integers(0, len(ids)))
    after = IncrementalDetokenizer(tokenizer, ids[:cut], skip_special_tokens=skip)
    rest = "".join(map(after.push, ids[cut:])) + after.finish()
    assert "".join(pieces[:cut]) + rest == whole


def test_real_texts_piece_by_piece(tokenizer: Tokenizer) -> None:
    for text in PLAIN_TEXTS:
        detokenizer = IncrementalDetokenizer(tokenizer)
        pieces = [detokenizer.push(token_id) for token_id in tokenizer.encode(text)]
        assert "".join(pieces) == text
        assert detokenizer.finish() == ""
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_a_continuation_keeps_its_leading_space(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode("one")
    word = tokenizer.encode("two", add_special_tokens=False)
    after_prompt = IncrementalDetokenizer(tokenizer, prompt)
    assert "".join(map(after_prompt.push, word)) == " two"
    after_bos = IncrementalDetokenizer(tokenizer, [1])
    assert "".join(map(after_bos.push, word)) == "two"
