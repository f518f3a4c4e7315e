"""SentencePiece BPE told as ranked merges.

SentencePiece joins, again and again, the two neighbours whose joined piece has the best score, the
leftmost such pair among equals. A list of merges says the same when every way to split a piece into two
pieces becomes one merge, best piece first: every character of a piece is a piece too, its trainer sees to
that. (Where two splits of the same piece overlap in a text, such as
a·aa and aa·a in "aaaa", SentencePiece takes the leftmost and a list the first; no text is known on which
a trained vocabulary shows the difference.)

Equal scores come from converters that had none to write: the piece with the lower id goes first then. A
trained vocabulary is numbered in the order of its merges, so these are the ids that the model was trained
with; the leftmost pair, which llama.cpp takes, would give others.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping

from pascaline.core.errors import CheckpointError

MAX_PIECE_CHARACTERS = 512
"""The most that SentencePiece's trainer can be told to make."""
MAX_MERGES_PER_PIECE = 8
"""On average; Llama's and Gemma's vocabularies have two."""


def merges_from_scores(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every (left, right) that joins to a piece, in the order in which they must be preferred.

    Parameters
    ----------
    pieces : text pieces by id, with their scores; a higher score is joined earlier.

    Raises
    ------
    CheckpointError : a piece, or the list of merges, would be longer than in any vocabulary.
    """
    most = MAX_MERGES_PER_PIECE * len(pieces)
    merges = []
    for piece in sorted(pieces, key=pieces.__getitem__, reverse=True):
        if len(piece) > MAX_PIECE_CHARACTERS:
            raise _absurd(f"has a piece of {len(piece)} characters, {reprlib.repr(piece)}")
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                merges.append((left, right))
        if len(merges) > most:
            raise _absurd(f"has {len(pieces)} pieces that can be joined in more than {most} ways")
    return merges


def _absurd(what: str) -> CheckpointError:
    return CheckpointError(
        f"The GGUF's tokenizer.ggml.tokens {what}",
        expected=f"pieces of at most {MAX_PIECE_CHARACTERS} characters, "
        f"{MAX_MERGES_PER_PIECE} ways to join a piece on average",
        remedy="Fetch the file again, or convert the model again",
    )
