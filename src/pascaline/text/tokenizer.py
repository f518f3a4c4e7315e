"""Text to token ids and back, one class for every vocabulary that a checkpoint may bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tokenizers

from pascaline.checkpoint.checkpoint import TokenizerSource
from pascaline.core.errors import CheckpointError, ConfigError, PascalineError, UnsupportedError
from pascaline.text.byte_level import bytes_of_byte_level_token
from pascaline.text.gguf_vocabulary import build_gguf_vocabulary
from pascaline.text.tokenizer_json import decoder_steps, library_failure, read_tokenizer_json

SPACE_MARK = "▁"  # U+2581, SentencePiece's spelling of a space


class Tokenizer:
    """A vocabulary with its rules, and the exact bytes of every token.

    Decoding is defined on bytes: the bytes of all tokens are joined, and what is not UTF-8 becomes
    U+FFFD. That makes incremental decoding exact; see `detokenizer.IncrementalDetokenizer`.

    Parameters
    ----------
    backend : the `tokenizers` library's own object; its decoder says how tokens spell bytes.
    bos_token, eos_token : as the checkpoint spells them, for chat templates.
    """

    def __init__(self, backend: tokenizers.Tokenizer, bos_token: str | None, eos_token: str | None) -> None:
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        self._spelling, self.strips_leading_space = _read_decoder(backend)
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; special tokens written in the text become their ids.

        `add_special_tokens` adds what the checkpoint wants around a text (a BOS token, mostly).
        Raises ConfigError for a text with lone surrogates, which JSON can spell but UTF-8 cannot, and for
        one that the vocabulary's rules cannot take.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"Character {error.start} of the text is half of a surrogate pair, which is no character",
                remedy="Send the text as valid Unicode",
            ) from error
        try:
            ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except BaseException as error:
            raise ConfigError(
                f"The tokenizer fails on this text of {len(text)} characters: {library_failure(error)}",
                remedy="Send a shorter text; if short ones fail too, fetch the model's files again",
            ) from error
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; U+FFFD stands for bytes that are not UTF-8, ids without a token for nothing."""
        data = b"".join(
            self.token_bytes(token_id)
            for token_id in ids
            if not (skip_special_tokens and self.is_special(token_id))
        )
        if self.strips_leading_space:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", errors="replace")

    def is_special(self, token_id: int) -> bool:
        """Whether the token controls the model and is not part of its text."""
        return token_id in self._special

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that the token stands for; empty where the vocabulary has no such id."""
        data = self._bytes.get(token_id)
        if data is None:
            data = self._bytes[token_id] = self._find_bytes(token_id)
        return data

    def token_text(self, token_id: int) -> str:
        """The token alone as text; U+FFFD for a part of a character."""
        return self.token_bytes(token_id).decode("utf-8", errors="replace")

    def _find_bytes(self, token_id: int) -> bytes:
        if token_id in self._special:
            return self._added[token_id].encode()
        if token_id < 0 or (token := self._backend.id_to_token(token_id)) is None:
            return b""
        if token_id in self._added and self._spelling is bytes_of_byte_level_token:
            return token.encode()
        return self._spelling(token)


class NoTokenizer(Tokenizer):
    """Of a checkpoint without a vocabulary: requests are token ids, and answers have no text."""

    def __init__(self, missing: PascalineError) -> None:
        empty = tokenizers.Tokenizer(tokenizers.models.BPE())
        empty.decoder = tokenizers.decoders.ByteLevel()
        super().__init__(empty, None, None)
        self._missing = missing

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:  # noqa: ARG002 - as every tokenizer
        """Raises ConfigError: there is nothing to encode with."""
        raise ConfigError(
            f"this model takes token ids alone: {self._missing.seen}",
            expected="a prompt of token ids",
            remedy=self._missing.remedy,
        )


def load_tokenizer(source: TokenizerSource) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Raises CheckpointError for a missing or damaged vocabulary, UnsupportedError for a kind that we
    do not do.
    """
    if source.gguf_metadata is not None:
        backend = build_gguf_vocabulary(source.gguf_metadata)
    elif source.tokenizer_json is not None:
        backend = read_tokenizer_json(source.tokenizer_json)
    else:
        raise CheckpointError(
            "The checkpoint brings no tokenizer",
            expected="a tokenizer.json, or a GGUF with tokenizer.* keys",
            remedy="Copy the original model's tokenizer.json into the model's folder",
        )
    return Tokenizer(backend, source.bos_token, source.eos_token)


def _read_decoder(backend: tokenizers.Tokenizer) -> tuple[Callable[[str], bytes], bool]:
    """How tokens spell bytes, and whether a text's first space is dropped in decoding."""
    steps = decoder_steps(backend)
    kinds = [str(step["type"]) for step in steps]
    if kinds == ["ByteLevel"]:
        return bytes_of_byte_level_token, False
    if kinds == ["Metaspace"] and steps[0].get("replacement") == SPACE_MARK:
        return _bytes_of_space_marked_token, steps[0].get("prepend_scheme") != "never"
    marks_spaces = {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "} in steps
    strips = {"type": "Strip", "content": " ", "start": 1, "stop": 0} in steps
    if marks_spaces and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        has_bytes = "ByteFallback" in kinds
        return _bytes_of_byte_fallback_token if has_bytes else _bytes_of_space_marked_token, strips
    raise UnsupportedError(
        f"The tokenizer decodes by {' + '.join(kinds) or 'no rule at all'}",
        expected="byte-level BPE, or SentencePiece's space marks with or without byte fallback",
        remedy="Use a checkpoint of a Llama, Qwen, Mistral, Phi or Gemma model: they are of these kinds",
    )


def _bytes_of_space_marked_token(token: str) -> bytes:
    return token.replace(SPACE_MARK, " ").encode()


def _bytes_of_byte_fallback_token(token: str) -> bytes:
    """The byte of "<0x0A>", else the text with its space marks as spaces."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            pass  # a word that only looks like a byte
    return _bytes_of_space_marked_token(token)
