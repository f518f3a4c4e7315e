"""How byte-level BPE cuts texts into words: as the models publish it, as llama.cpp does, in linear time."""

from __future__ import annotations

import hashlib
import json
import time
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import regex
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pascaline.checkpoint.checkpoint import TokenizerSource
from pascaline.checkpoint.gguf_checkpoint import GgufCheckpoint
from pascaline.core.errors import ConfigError
from pascaline.text.pre_tokenization import PRE_TOKENIZATIONS
from pascaline.text.tokenizer import Tokenizer, load_tokenizer

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures/tokenizer/demo_ids.json").read_text())
CASES: list[dict[str, Any]] = FIXTURE["cases"]
OTHER_PRE_TOKENIZATIONS: list[str] = FIXTURE["other_pre_tokenizations"]


def _is_foreign_space(character: str) -> bool:
    return character.isspace() and not character.isascii()


def _is_mark_or_foreign_case(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] == "M" or (category in ("Lu", "Ll", "Lt") and not character.isascii())


# Its engine knows no space outside ASCII beside a literal letter, and case in ASCII only.
APPROXIMATED_BY_LLAMA_CPP = {
    "deepseek-coder": _is_foreign_space,
    "deepseek-llm": _is_foreign_space,
    "gpt-4o": _is_mark_or_foreign_case,
    "tekken": _is_mark_or_foreign_case,
}

_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UP, _LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ANY = r"[^\r\n\p{L}\p{N}]?"
# As published in the models' tokenizer.json files.
PUBLISHED_PATTERNS = {
    "llama-bpe": rf"{_SHORT}|{_ANY}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "qwen2": rf"{_SHORT}|{_ANY}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "qwen35": rf"{_SHORT}|{_ANY}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "tekken": rf"{_ANY}{_UP}*{_LOW}+|{_ANY}{_UP}+{_LOW}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
    "gpt-4o": rf"{_ANY}{_UP}*{_LOW}+{_SHORT}?|{_ANY}{_UP}+{_LOW}*{_SHORT}?|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
    "seed-coder": rf"{_SHORT}|{_ANY}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",
    "ufakzeka": rf"{_ANY}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
}

# Unassigned characters are left out: libraries of different Unicode versions class them differently.
any_text = st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=60)
text_with_runs = st.lists(
    st.sampled_from(
        [
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            "'s",
            "'LL",
            "a",
            "Bc",
            "DÉJÀvu",
            "E\u0301B",
            "É",
            "/",
            "Ж",
            "字",
            "é",
            "e\u0301",
            "12345",
            "٣",
            "!?",
            "_",
            "👩‍👩‍👧",
            "\u3000",
        ]
    )
    | any_text,
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def demo_metadata(demo_path: Path) -> dict[str, object]:
    checkpoint = GgufCheckpoint(demo_path)
    metadata = checkpoint.tokenizer_source().gguf_metadata
    checkpoint.close()
    assert metadata is not None
    return dict(metadata)


@cache
def _bytes_only(pre: str) -> Tokenizer:
    """A vocabulary of the 256 bytes, without merges."""
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        "tokenizer.ggml.merges": [],
    }
    return _load(metadata)


def _load(metadata: dict[str, object]) -> Tokenizer:
    return load_tokenizer(TokenizerSource(None, metadata, None, None))


@pytest.mark.parametrize("pre", OTHER_PRE_TOKENIZATIONS)
def test_other_pre_tokenizations_cut_as_llama_cpp_does(demo_metadata: dict[str, object], pre: str) -> None:
    changed = {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": False}
    tokenizer = _load({**demo_metadata, **changed})
    differing = sum(pre in case for case in CASES)
    assert differing > 20, "the fixture must tell this pre-tokenization from the model's own"
    approximated = APPROXIMATED_BY_LLAMA_CPP.get(pre)
    for case in CASES:
        if approximated is None or not any(map(approximated, case["text"])):
            expected = case.get(pre, _digest(case["ids"]))
            assert _digest(tokenizer.encode(case["text"])) == expected, case["text"]


def _digest(ids: list[int]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:12]


@settings(max_examples=150, deadline=None)
@given(text=text_with_runs)
@pytest.mark.parametrize("pre", PUBLISHED_PATTERNS)
def test_words_are_those_of_the_published_pattern(pre: str, text: str) -> None:
    words = [span for _, span in _bytes_only(pre)._backend.pre_tokenizer.pre_tokenize_str(text)]
    assert words == [match.span() for match in regex.finditer(PUBLISHED_PATTERNS[pre], text)]


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
@pytest.mark.parametrize("pre", sorted({rules: name for name, rules in PRE_TOKENIZATIONS.items()}.values()))
def test_every_text_survives(pre: str, text: str) -> None:
    tokenizer = _bytes_only(pre)
    assert tokenizer.decode(tokenizer.encode(text)) == text


LONG_TEXTS = {
    "a letter": "a" * 10**6,
    "a capital": "A" * 10**6,
    "digits": "9" * 10**6,
    "emoji": "😀" * 250_000,
    "spaces and a digit": " " * 10**6 + "5",
    "indented lines": (" " * 1000 + "\n") * 1000,
    "marks": "\u0301" * 500_000,
}


@pytest.mark.parametrize("text", LONG_TEXTS)
@pytest.mark.parametrize("pre", ["qwen2", "tekken", "deepseek-llm"])
def test_a_long_text_takes_seconds(pre: str, text: str) -> None:
    """A megabyte, measured 0.1 to 0.7 s; a rule that looks at a run once for each character takes hours."""
    tokenizer = _bytes_only(pre)
    start = time.process_time()
    tokenizer.encode(LONG_TEXTS[text])
    assert time.process_time() - start < 8


def test_a_text_beyond_the_rules_engine_is_refused() -> None:
    """The engine gives up after ten million steps, in a panic."""
    with pytest.raises(ConfigError, match=r"this text of 11000001 characters: .*retry-limit.*shorter"):
        _bytes_only("qwen2").encode(" " * 11_000_000 + "x")
