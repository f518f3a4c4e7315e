"""Byte-level BPE vocabularies of GGUF files: ids, bytes, text, and text piece by piece."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pascaline.checkpoint.checkpoint import TokenizerSource
from pascaline.checkpoint.gguf_checkpoint import GgufCheckpoint
from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.text.detokenizer import IncrementalDetokenizer
from pascaline.text.gguf_vocabulary import MAX_TOKENS, build_gguf_vocabulary
from pascaline.text.tokenizer import Tokenizer, load_tokenizer

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures/tokenizer/demo_ids.json").read_text())
CASES: list[dict[str, Any]] = FIXTURE["cases"]


@pytest.fixture(scope="session")
def demo_metadata(demo_path: Path) -> dict[str, object]:
    """The demo file's tokenizer.* keys, read by the gguf package."""
    fields = gguf.GGUFReader(demo_path).fields
    return {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}


@pytest.fixture(scope="session")
def demo(demo_metadata: dict[str, object]) -> Tokenizer:
    return _load(demo_metadata)


@pytest.fixture(scope="session")
def bytes_only() -> dict[str, object]:
    """A vocabulary of the 256 bytes and two added tokens, without merges."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*alphabet, "<|control|>", "<user défined>"],
        "tokenizer.ggml.token_type": [1] * 256 + [3, 4],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 256,
    }


def _load(metadata: dict[str, object]) -> Tokenizer:
    return load_tokenizer(TokenizerSource(None, metadata, None, None))


def test_demo_ids_are_those_of_llama_cpp(demo: Tokenizer) -> None:
    assert len(CASES) > 150
    assert [demo.encode(case["text"]) for case in CASES] == [case["ids"] for case in CASES]


def test_the_fixture_is_of_this_demo_file(demo_path: Path) -> None:
    assert hashlib.sha256(demo_path.read_bytes()).hexdigest() == FIXTURE["model_sha256"]


def test_demo_ids_are_those_of_its_published_rules(demo: Tokenizer, demo_metadata: dict[str, Any]) -> None:
    """SmolLM2's tokenizer.json: single digits, then GPT-2's words (transformers forgets the digits)."""
    tokens = demo_metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in demo_metadata["tokenizer.ggml.merges"]]
    published = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    )
    published.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    control = [
        t for t, kind in zip(tokens, demo_metadata["tokenizer.ggml.token_type"], strict=True) if kind == 3
    ]
    published.add_special_tokens(control)
    published.decoder = tokenizers.decoders.ByteLevel()
    for case in CASES:
        ids = published.encode(case["text"]).ids
        assert demo.encode(case["text"]) == ids
        assert demo.decode(ids) == published.decode(ids, skip_special_tokens=True)
        assert demo.decode(ids, skip_special_tokens=False) == published.decode(ids, skip_special_tokens=False)


def test_the_own_reader_gives_the_same_tokenizer(demo_path: Path, demo: Tokenizer) -> None:
    checkpoint = GgufCheckpoint(demo_path)
    source = checkpoint.tokenizer_source()
    checkpoint.close()
    tokenizer = load_tokenizer(source)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.vocab_size == demo.vocab_size == 49152
    for case in CASES[::7]:
        assert tokenizer.encode(case["text"]) == case["ids"]


def test_building_is_fast(demo_metadata: dict[str, object]) -> None:
    """Measured 70 ms for 49152 tokens; the bound leaves room for a busy machine."""
    times = []
    for _ in range(3):
        start = time.process_time()
        build_gguf_vocabulary(demo_metadata)
        times.append(time.process_time() - start)
    assert min(times) < 0.4


def test_special_tokens_in_text(demo: Tokenizer) -> None:
    ids = demo.encode("<|im_start|>user\nhi<|im_end|>")
    assert (ids[0], ids[-1]) == (1, 2)
    assert demo.decode(ids) == "user\nhi"
    assert demo.decode(ids, skip_special_tokens=False) == "<|im_start|>user\nhi<|im_end|>"
    assert demo.is_special(1)
    assert not demo.is_special(ids[1])


def test_bytes_of_tokens(demo: Tokenizer) -> None:
    ids = demo.encode(" hello 字😀")
    assert b"".join(map(demo.token_bytes, ids)) == " hello 字😀".encode()
    assert demo.token_text(ids[0]) == " hello"
    partial = [demo.token_text(i) for i in demo.encode("😀") if len(demo.token_bytes(i)) < 4]
    assert partial
    assert all("�" in text for text in partial)
    assert demo.token_bytes(2) == b"<|im_end|>"
    assert demo.token_bytes(demo.vocab_size) == demo.token_bytes(-1) == b""


def test_user_defined_tokens_are_text_and_control_tokens_are_not(bytes_only: dict[str, object]) -> None:
    tokenizer = _load(bytes_only)
    ids = tokenizer.encode("a<user défined>b<|control|>")
    assert ids[1] == 257
    assert ids[-1] == 256
    assert tokenizer.decode(ids) == "a<user défined>b"
    assert tokenizer.token_bytes(257) == "<user défined>".encode()


def test_bos_and_eos_as_the_file_says(bytes_only: dict[str, object]) -> None:
    bos = {"tokenizer.ggml.add_bos_token": True}
    eos = {"tokenizer.ggml.add_eos_token": True}
    plain = _load(bytes_only).encode("ab")
    assert len(plain) == 2
    assert _load({**bytes_only, **bos}).encode("ab") == [256, *plain]
    assert _load({**bytes_only, **bos, **eos}).encode("ab") == [256, *plain, 256]
    assert _load({**bytes_only, **bos, **eos}).encode("ab", add_special_tokens=False) == plain
    assert _load({**bytes_only, **bos}).encode("") == [256]


@pytest.mark.parametrize("pre", ["llama-bpe", "tekken"])
def test_bos_is_the_default_of_some_families(bytes_only: dict[str, object], pre: str) -> None:
    metadata = {**bytes_only, "tokenizer.ggml.pre": pre}
    assert _load(metadata).encode("a")[0] == 256
    del metadata["tokenizer.ggml.bos_token_id"]
    assert len(_load(metadata).encode("a")) == 1


def test_a_bos_token_of_any_spelling(bytes_only: dict[str, Any]) -> None:
    for spelling in ("$A", "$B:1", "a:b", "x y", ""):
        changed = {
            "tokenizer.ggml.tokens": [*bytes_only["tokenizer.ggml.tokens"][:256], spelling, "<u>"],
            "tokenizer.ggml.add_bos_token": True,
        }
        assert _load({**bytes_only, **changed}).encode("q") == [256, *_load(bytes_only).encode("q")]


def test_marks_of_a_turns_end_are_never_text(bytes_only: dict[str, Any]) -> None:
    """Some converters type them as words, or as user-defined."""
    for kind in (1, 4):
        changed = {
            "tokenizer.ggml.tokens": [*bytes_only["tokenizer.ggml.tokens"], "<end_of_turn>"],
            "tokenizer.ggml.token_type": [*bytes_only["tokenizer.ggml.token_type"], kind],
        }
        tokenizer = _load({**bytes_only, **changed})
        assert tokenizer.encode("a<end_of_turn>")[-1] == 258
        assert tokenizer.decode(tokenizer.encode("a<end_of_turn>")) == "a"


def test_llama3_takes_a_word_that_is_a_token_without_merges(bytes_only: dict[str, Any]) -> None:
    tokens = [*bytes_only["tokenizer.ggml.tokens"], "word"]
    metadata = {
        **bytes_only,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*bytes_only["tokenizer.ggml.token_type"], 1],
        "tokenizer.ggml.add_bos_token": False,
    }
    assert _load({**metadata, "tokenizer.ggml.pre": "llama-bpe"}).encode("word") == [258]
    assert len(_load({**metadata, "tokenizer.ggml.pre": "qwen2"}).encode("word")) == 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pre": "klingon"}, UnsupportedError, "'klingon'.*one of a.x-4.0, .*llama-bpe.*qwen2, .*tekken"),
        ({"model": "bert"}, UnsupportedError, "'bert'.*'gpt2'.*'llama'"),
        ({"model": None}, CheckpointError, "tokenizer.ggml.model is None"),
        ({"tokens": None}, CheckpointError, "no tokenizer.ggml.tokens"),
        ({"tokens": "abc"}, CheckpointError, "'abc' and not an array"),
        ({"tokens": [1, 2]}, CheckpointError, "tokens holds values that are not of type str"),
        ({"tokens": []}, CheckpointError, "tokens has 0 tokens"),
        ({"tokens": ["a"] * (MAX_TOKENS + 1)}, CheckpointError, f"tokens has {MAX_TOKENS + 1} tokens"),
        ({"tokens": ["a"] * 258}, CheckpointError, "tokens has 'a' twice, as 0 and 1"),
        ({"tokens": {"a": 10**6}.items()}, CheckpointError, "not of type str"),
        ({"model": ["x"] * 10**6}, CheckpointError, r"model is \['x', .*\.\.\.\] and not a text"),
        ({"merges": None}, CheckpointError, "no tokenizer.ggml.merges"),
        ({"merges": ["ab"]}, CheckpointError, "'ab' in the GGUF's tokenizer.ggml.merges"),
        ({"merges": ["a nowhere"]}, CheckpointError, "merges do not fit its tokens"),
        ({"merges": ["a" * 10**6]}, CheckpointError, r"'a+\.\.\.a+' in the GGUF's tokenizer.ggml.merges"),
        ({"token_type": [1]}, CheckpointError, "258 tokens but 1 entries"),
        ({"token_type": [1] * 257 + [7]}, CheckpointError, "token_type holds the type 7"),
        ({"token_type": [True] * 258}, CheckpointError, "token_type holds values that are not of type int"),
        ({"add_bos_token": 3}, CheckpointError, "add_bos_token is 3 and neither true nor false"),
        ({"add_bos_token": True, "bos_token_id": None}, CheckpointError, "bos_token_id is None"),
        ({"add_bos_token": True, "bos_token_id": True}, CheckpointError, "bos_token_id is True"),
        ({"add_eos_token": True, "eos_token_id": -1}, CheckpointError, "eos_token_id is -1"),
        (
            {"add_eos_token": True, "eos_token_id": 1 << 63},
            CheckpointError,
            "eos_token_id is 9223372036854775808",
        ),
        (
            {"add_bos_token": True, "bos_token_id": 999},
            CheckpointError,
            "bos_token_id is 999, but it has 258",
        ),
    ],
)
def test_damaged_vocabularies(
    bytes_only: dict[str, object], change: dict[str, object], error: type[Exception], message: str
) -> None:
    changed = {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(error, match=message):
        _load({**bytes_only, **changed})


def _pieces(tokenizer: Tokenizer, ids: list[int], **options: Any) -> Iterator[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, **options)
    for token_id in ids:
        yield detokenizer.push(token_id)
    yield detokenizer.finish()


@pytest.mark.parametrize("skip", [True, False])
def test_pieces_of_real_texts_join_to_the_text(demo: Tokenizer, skip: bool) -> None:
    for case in CASES:
        pieces = list(_pieces(demo, case["ids"], skip_special_tokens=skip))
        assert "".join(pieces) == demo.decode(case["ids"], skip_special_tokens=skip)
        if "\ufffd" not in case["text"]:
            assert not any("\ufffd" in piece for piece in pieces), case["text"]


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.integers(-1, 49160) | st.sampled_from([0, 1, 2]) | st.integers(20, 280), max_size=40),
    prompt_length=st.integers(0, 40),
    skip=st.booleans(),
)
def test_pieces_of_any_ids_join_to_their_text(
    demo: Tokenizer, ids: list[int], prompt_length: int, skip: bool
) -> None:
    assert "".join(_pieces(demo, ids, skip_special_tokens=skip)) == demo.decode(ids, skip_special_tokens=skip)
    prompt, rest = ids[:prompt_length], ids[prompt_length:]
    with_prompt = "".join(_pieces(demo, rest, prompt_ids=prompt, skip_special_tokens=skip))
    whole = demo.decode(ids, skip_special_tokens=skip)
    assert whole.endswith(with_prompt)
    finished = IncrementalDetokenizer(demo, skip_special_tokens=skip)
    given_before = "".join(map(finished.push, prompt))
    assert given_before + with_prompt == whole


def test_a_character_comes_out_with_its_last_token(demo: Tokenizer) -> None:
    ids = demo.encode("😀")
    assert len(ids) > 1
    pieces = list(_pieces(demo, ids))
    assert pieces == [*[""] * (len(ids) - 1), "😀", ""]
    assert list(_pieces(demo, ids[:-1])) == [*[""] * (len(ids) - 1), "\ufffd"]
    assert list(_pieces(demo, ids[-1:], prompt_ids=ids[:-1])) == ["😀", ""]


def test_cost_does_not_depend_on_what_went_before(demo: Tokenizer) -> None:
    """Counts the tokens that are looked at, which a clock on a busy machine could not."""
    looked_at = 0

    class Counting(Tokenizer):
        def token_bytes(self, token_id: int) -> bytes:
            nonlocal looked_at
            looked_at += 1
            return super().token_bytes(token_id)

    counting = Counting(demo._backend, None, None)
    detokenizer = IncrementalDetokenizer(counting, prompt_ids=demo.encode("word " * 5000))
    assert looked_at <= 4
    looked_at = 0
    for token_id in demo.encode("字" * 1000):
        detokenizer.push(token_id)
    assert looked_at == len(demo.encode("字" * 1000))
