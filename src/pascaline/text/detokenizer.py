"""Text of a growing sequence of tokens, piece by piece."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from pascaline.text.tokenizer import Tokenizer

_LONGEST_PARTIAL_CHARACTER = 3  # bytes of a UTF-8 character that still lacks one


class IncrementalDetokenizer:
    """Decodes one token at a time, each at a cost that does not depend on those before it.

    The pieces from `push` and `finish`, joined, are `tokenizer.decode` of all pushed ids. A character
    that spans tokens comes out whole, with the token that completes it; U+FFFD comes out only for
    bytes that no later token can mend.

    Parameters
    ----------
    prompt_ids : tokens before the first pushed one. Their text is not given out, but a character
        they began is, and the first pushed token keeps its leading space.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        tail = self._last_bytes(prompt_ids)
        # A tail cut inside a character only yields text that is thrown away: UTF-8 finds its way back
        # at the next character's first byte.
        self._decoder.decode(tail)
        self._strips_leading_space = tokenizer.strips_leading_space and not tail

    def push(self, token_id: int) -> str:
        """The text that became final with this token; empty while a character is incomplete."""
        return self._decoder.decode(self._bytes_of(token_id))

    def finish(self) -> str:
        """What `push` held back: U+FFFD if the tokens ended inside a character, else nothing."""
        return self._decoder.decode(b"", final=True)

    def _bytes_of(self, token_id: int) -> bytes:
        if self._skip_special_tokens and self._tokenizer.is_special(token_id):
            return b""
        data = self._tokenizer.token_bytes(token_id)
        if self._strips_leading_space and data:
            self._strips_leading_space = False
            return data.removeprefix(b" ")
        return data

    def _last_bytes(self, ids: Sequence[int]) -> bytes:
        """Bytes of the last tokens: enough to hold any partial character."""
        self._strips_leading_space = False
        tail = b""
        for token_id in reversed(ids):
            tail = self._bytes_of(token_id) + tail
            if len(tail) > _LONGEST_PARTIAL_CHARACTER:
                break
        return tail
