"""A GGUF's own vocabulary (its `tokenizer.ggml.*` keys) as a tokenizer of the `tokenizers` library."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import TypeVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.text.pre_tokenization import PRE_TOKENIZATIONS
from pascaline.text.sentencepiece_merges import merges_from_scores

_Item = TypeVar("_Item")


class TokenType(IntEnum):
    """Values of `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


MAX_TOKENS = 1 << 19
"""Twice the largest vocabulary in use."""
MAX_MARKS = 1 << 16
"""Ten times as many as any has; a text is searched for all of them."""

# Chat formats' marks of a turn's end control the model even in files that type them as text.
_TURN_ENDS = frozenset(
    ("<end_of_turn>", "<|end_of_text|>", "<|end|>", "<|endoftext|>", "<|eom_id|>", "<|eot_id|>", "<|im_end|>")
)
# GGUF does not say which special tokens swallow the spaces behind them. Phi-3's do, but for three.
_PHI3_MARKS = frozenset(("<|assistant|>", "<|end|>", "<|placeholder1|>", "<|user|>"))
_PHI3_KEEPS_SPACES = frozenset(("<unk>", "<s>", "<|endoftext|>"))


def build_gguf_vocabulary(metadata: Mapping[str, object]) -> Tokenizer:
    """The tokenizer that a GGUF describes, with llama.cpp's defaults for what it leaves out.

    Model "gpt2" is byte-level BPE (its own merges, pre-tokenization by `tokenizer.ggml.pre`);
    "llama" is SentencePiece BPE (merges follow from the scores, unknown characters fall back to
    bytes, a space is put before the text). Control and user-defined tokens are found in text, of
    several that fit the leftmost and longest.

    Raises UnsupportedError for another model or pre-tokenization, CheckpointError for keys that are
    missing, absurd or contradict each other.
    """
    model = _text(metadata, "model")
    if model == "gpt2":
        return _byte_level(metadata)
    if model == "llama":
        return _sentencepiece(metadata)
    raise UnsupportedError(
        f"The GGUF's tokenizer model is {model!r}",
        expected="'gpt2' (byte-level BPE) or 'llama' (SentencePiece BPE)",
        remedy="Use the model's safetensors checkpoint, which brings a tokenizer.json",
    )


def _byte_level(metadata: Mapping[str, object]) -> Tokenizer:
    name = _text(metadata, "pre", default="default")
    pre_tokenization = PRE_TOKENIZATIONS.get(name)
    if pre_tokenization is None:
        raise UnsupportedError(
            f"The GGUF's tokenizer.ggml.pre is {name!r}, a pre-tokenization that this version does not know",
            expected="one of " + ", ".join(PRE_TOKENIZATIONS),
            remedy="Use the model's safetensors checkpoint, which brings a tokenizer.json",
        )
    tokens = _tokens(metadata)
    token_types = _token_types(metadata, tokens)
    merges = [_split_merge(merge) for merge in _array(metadata, "merges", str)]
    vocabulary = _numbered(tokens)
    try:
        bpe = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre_tokenization.ignore_merges)
    except Exception as error:  # the library raises bare Exception: a merge of tokens that do not exist
        raise _damaged(
            f"The GGUF's tokenizer.ggml.merges do not fit its tokens: {str(error)[:200]}"
        ) from error
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_tokenization.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    _add_special_tokens(tokenizer, tokens, token_types)
    _add_template(
        tokenizer, metadata, tokens, adds_bos=pre_tokenization.adds_bos, default_bos=None, default_eos=None
    )
    return tokenizer


def _sentencepiece(metadata: Mapping[str, object]) -> Tokenizer:
    tokens = _tokens(metadata)
    token_types = _token_types(metadata, tokens)
    vocabulary = _numbered(tokens)
    never_text = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.BYTE)
    pieces = {
        token: score
        for token, score, kind in zip(tokens, _scores(metadata, len(tokens)), token_types, strict=True)
        if kind not in never_text
    }
    unknown_id = _integer(metadata, "unknown_token_id", default=0)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges_from_scores(pieces),
            unk_token=_token(tokens, unknown_id, "unknown_token_id"),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    mark_spaces = normalizers.Replace(" ", "▁")
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if _flag(metadata, "add_space_prefix", default=True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), mark_spaces])
        decoding.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = mark_spaces
    tokenizer.decoder = decoders.Sequence(decoding)
    _add_special_tokens(tokenizer, tokens, token_types)
    _add_template(tokenizer, metadata, tokens, adds_bos=True, default_bos=1, default_eos=2)
    return tokenizer


def _add_special_tokens(tokenizer: Tokenizer, tokens: Sequence[str], token_types: Sequence[int]) -> None:
    """Have unknown, control and user-defined tokens recognised in text; the first two are not text."""
    of_phi3 = _PHI3_MARKS.issubset(tokens)
    special: list[AddedToken] = []
    plain: list[AddedToken] = []
    for token, kind in zip(tokens, token_types, strict=True):
        if kind not in (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED):
            continue
        strips = of_phi3 and token not in _PHI3_KEEPS_SPACES
        added = AddedToken(token, special=kind != TokenType.USER_DEFINED, normalized=False, rstrip=strips)
        (special if added.special else plain).append(added)
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _add_template(
    tokenizer: Tokenizer,
    metadata: Mapping[str, object],
    tokens: Sequence[str],
    *,
    adds_bos: bool,
    default_bos: int | None,
    default_eos: int | None,
) -> None:
    """Put BOS before and EOS behind a text, as the file says."""
    single = ["$A"]
    special: list[tuple[str, int]] = []
    names_bos = default_bos is not None or "tokenizer.ggml.bos_token_id" in metadata
    if _flag(metadata, "add_bos_token", default=adds_bos and names_bos):
        bos_id = _integer(metadata, "bos_token_id", default=default_bos)
        _token(tokens, bos_id, "bos_token_id")
        special.append(("bos", bos_id))
        single.insert(0, "bos")
    if _flag(metadata, "add_eos_token", default=False):
        eos_id = _integer(metadata, "eos_token_id", default=default_eos)
        _token(tokens, eos_id, "eos_token_id")
        special.append(("eos", eos_id))
        single.append("eos")
    if special:
        # Names of our own: a token may hold what the template's language gives a meaning.
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)


def _split_merge(merge: str) -> tuple[str, str]:
    # Byte-level tokens spell a space as another character, so the only space is the separator.
    left, separator, right = merge.partition(" ")
    if not (left and separator and right):
        raise _damaged(
            f"{reprlib.repr(merge)} in the GGUF's tokenizer.ggml.merges is not two tokens "
            "with a space between"
        )
    return left, right


def _token(tokens: Sequence[str], token_id: int, key: str) -> str:
    if not 0 <= token_id < len(tokens):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {token_id}, but it has {len(tokens)} tokens")
    return tokens[token_id]


def _tokens(metadata: Mapping[str, object]) -> list[str]:
    tokens = _array(metadata, "tokens", str)
    if not 0 < len(tokens) <= MAX_TOKENS:
        raise _damaged(f"The GGUF's tokenizer.ggml.tokens has {len(tokens)} tokens", f"1 to {MAX_TOKENS}")
    # The name that llama.cpp gives a token without text.
    return [token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(tokens)]


def _numbered(tokens: Sequence[str]) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    for token_id, token in enumerate(tokens):
        first = vocabulary.setdefault(token, token_id)
        if first != token_id:
            raise _damaged(
                f"The GGUF's tokenizer.ggml.tokens has {reprlib.repr(token)} twice, as {first} and {token_id}"
            )
    return vocabulary


def _token_types(metadata: Mapping[str, object], tokens: Sequence[str]) -> list[int]:
    if "tokenizer.ggml.token_type" in metadata:
        token_types = _array(metadata, "token_type", int)
    else:
        token_types = [TokenType.NORMAL] * len(tokens)
    if len(token_types) != len(tokens):
        raise _damaged(
            f"The GGUF has {len(tokens)} tokens but {len(token_types)} entries in tokenizer.ggml.token_type"
        )
    for kind in set(token_types):
        if not TokenType.UNDEFINED <= kind <= TokenType.BYTE:
            raise _damaged(f"The GGUF's tokenizer.ggml.token_type holds the type {kind}", "types from 0 to 6")
    marks = sum(kind in (TokenType.CONTROL, TokenType.USER_DEFINED) for kind in token_types)
    if marks > MAX_MARKS:
        raise _damaged(f"The GGUF has {marks} control and user-defined tokens", f"at most {MAX_MARKS}")
    return [
        TokenType.CONTROL if token in _TURN_ENDS else kind
        for token, kind in zip(tokens, token_types, strict=True)
    ]


def _scores(metadata: Mapping[str, object], count: int) -> list[float]:
    scores = _array(metadata, "scores", float, int)
    if len(scores) != count:
        raise _damaged(f"The GGUF has {count} tokens but {len(scores)} tokenizer.ggml.scores")
    if not all(map(math.isfinite, scores)):
        raise _damaged("The GGUF's tokenizer.ggml.scores holds values that are no finite numbers")
    return scores


def _array(metadata: Mapping[str, object], key: str, *kinds: type[_Item]) -> list[_Item]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        raise _damaged(f"The GGUF has no tokenizer.ggml.{key}")
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {reprlib.repr(value)} and not an array")
    items = list(value)
    if not all(isinstance(item, kinds) and not isinstance(item, bool) for item in items):
        raise _damaged(
            f"The GGUF's tokenizer.ggml.{key} holds values that are not of type {kinds[0].__name__}"
        )
    return items


def _text(metadata: Mapping[str, object], key: str, default: str | None = None) -> str:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(value, str):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {reprlib.repr(value)} and not a text")
    return value


def _integer(metadata: Mapping[str, object], key: str, default: int | None) -> int:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {reprlib.repr(value)} and not a token id")
    return value


def _flag(metadata: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(value, bool):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {reprlib.repr(value)} and neither true nor false")
    return value


def _damaged(seen: str, expected: str = "") -> CheckpointError:
    return CheckpointError(seen, expected=expected, remedy="Fetch the file again, or convert the model again")
