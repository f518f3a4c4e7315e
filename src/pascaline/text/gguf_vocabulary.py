"""A GGUF's own vocabulary (its `tokenizer.ggml.*` keys) as a tokenizer of the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.text.sentencepiece_merges import merges_from_scores

_Item = TypeVar("_Item")


class TokenType(IntEnum):
    """Values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class PreTokenization:
    """How one family of byte-level BPE cuts a text into words before merging.

    `patterns` apply one after another, each to the pieces that the earlier ones left; what lies
    between two matches is a piece too. `ignore_merges` takes a word that is a token as it is.
    `adds_bos` is the default where the file does not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS_AROUND_DIGITS = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_SMOLLM = PreTokenization((r"\p{N}", _GPT2_WORDS))
_LLAMA3 = PreTokenization((_WORDS_AROUND_DIGITS % r"\p{N}{1,3}",), ignore_merges=True, adds_bos=True)
_QWEN2 = PreTokenization((_WORDS_AROUND_DIGITS % r"\p{N}",))
_GPT2 = PreTokenization((_GPT2_WORDS,))
# What files get that were made before `tokenizer.ggml.pre` existed.
_DEFAULT = PreTokenization((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"))

PRE_TOKENIZATIONS: Mapping[str, PreTokenization] = {
    "default": _DEFAULT,
    "deepseek-r1-qwen": _QWEN2,
    "gpt-2": _GPT2,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": _QWEN2,
    "smollm": _SMOLLM,
}
"""By the file's `tokenizer.ggml.pre`."""


def build_gguf_vocabulary(metadata: Mapping[str, object]) -> Tokenizer:
    """The tokenizer that a GGUF describes, with llama.cpp's defaults for what it leaves out.

    Model "gpt2" is byte-level BPE (its own merges, pre-tokenization by `tokenizer.ggml.pre`);
    "llama" is SentencePiece BPE (merges follow from the scores, unknown characters fall back to
    bytes, a space is put before the text). Control and user-defined tokens are found in text.

    Raises UnsupportedError for another model or pre-tokenization, CheckpointError for keys that are
    missing or contradict each other.
    """
    model = _text(metadata, "model")
    if model == "gpt2":
        return _byte_level(metadata)
    if model == "llama":
        return _sentencepiece(metadata)
    raise UnsupportedError(
        f"The GGUF's tokenizer model is {model!r}",
        expected="'gpt2' (byte-level BPE) or 'llama' (SentencePiece BPE)",
        remedy="Use a GGUF of a Llama or Qwen2 model",
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
    tokens = _array(metadata, "tokens", str)
    token_types = _token_types(metadata, len(tokens))
    merges = [_split_merge(merge) for merge in _array(metadata, "merges", str)]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    try:
        bpe = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre_tokenization.ignore_merges)
    except Exception as error:  # the library raises bare Exception: a merge of tokens that do not exist
        raise _damaged(f"The GGUF's tokenizer.ggml.merges do not fit its tokens: {error}") from error
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
    tokens = _array(metadata, "tokens", str)
    token_types = _token_types(metadata, len(tokens))
    scores = _array(metadata, "scores", float)
    if len(scores) != len(tokens):
        raise _damaged(f"The GGUF has {len(tokens)} tokens but {len(scores)} tokenizer.ggml.scores")
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    in_text = (TokenType.NORMAL, TokenType.UNUSED)
    pieces = {
        token: score
        for token, score, kind in zip(tokens, scores, token_types, strict=True)
        if kind in in_text
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
    special, plain = [], []
    for token, kind in zip(tokens, token_types, strict=True):
        if kind in (TokenType.UNKNOWN, TokenType.CONTROL):
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == TokenType.USER_DEFINED:
            plain.append(AddedToken(token, special=False, normalized=False))
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
    if _flag(metadata, "add_bos_token", default=adds_bos):
        bos_id = _integer(metadata, "bos_token_id", default=default_bos)
        special.append((_token(tokens, bos_id, "bos_token_id"), bos_id))
        single.insert(0, special[-1][0])
    if _flag(metadata, "add_eos_token", default=False):
        eos_id = _integer(metadata, "eos_token_id", default=default_eos)
        special.append((_token(tokens, eos_id, "eos_token_id"), eos_id))
        single.append(special[-1][0])
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)


def _split_merge(merge: str) -> tuple[str, str]:
    # Byte-level tokens spell a space as another character, so the only space is the separator.
    left, separator, right = merge.partition(" ")
    if not (left and separator and right):
        raise _damaged(
            f"{merge!r} in the GGUF's tokenizer.ggml.merges is not two tokens with a space between"
        )
    return left, right


def _token(tokens: Sequence[str], token_id: int, key: str) -> str:
    if not 0 <= token_id < len(tokens):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {token_id}, but it has {len(tokens)} tokens")
    return tokens[token_id]


def _token_types(metadata: Mapping[str, object], count: int) -> list[int]:
    if "tokenizer.ggml.token_type" not in metadata:
        return [TokenType.NORMAL] * count
    token_types = _array(metadata, "token_type", int)
    if len(token_types) != count:
        raise _damaged(
            f"The GGUF has {count} tokens but {len(token_types)} entries in tokenizer.ggml.token_type"
        )
    return token_types


def _array(metadata: Mapping[str, object], key: str, kind: type[_Item]) -> list[_Item]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        raise _damaged(f"The GGUF has no tokenizer.ggml.{key}")
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {value!r} and not an array")
    items = list(value)
    if not all(isinstance(item, kind) for item in items):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} holds values that are not of type {kind.__name__}")
    return items


def _text(metadata: Mapping[str, object], key: str, default: str | None = None) -> str:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(value, str):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {value!r} and not a text")
    return value


def _integer(metadata: Mapping[str, object], key: str, default: int | None) -> int:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(value, int):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {value!r} and not a token id")
    return value


def _flag(metadata: Mapping[str, object], key: str, *, default: bool) -> bool:
    value = metadata.get(f"tokenizer.ggml.{key}", default)
    if not isinstance(value, bool):
        raise _damaged(f"The GGUF's tokenizer.ggml.{key} is {value!r} and neither true nor false")
    return value


def _damaged(seen: str) -> CheckpointError:
    return CheckpointError(seen, remedy="Fetch the file again, or convert the model again")
