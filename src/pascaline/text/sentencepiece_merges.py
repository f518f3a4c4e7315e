"""SentencePiece BPE told as ranked merges.

SentencePiece joins, again and again, the two neighbours whose joined piece has the best score, the
leftmost such pair among equals. A list of merges says the same when every way to split a piece into two
pieces becomes one merge, best piece first. (Where two splits of the same piece overlap in a text, such as
a·aa and aa·a in "aaaa", SentencePiece takes the leftmost and a list the first; no text is known on which
a trained vocabulary shows the difference.)
"""

from __future__ import annotations

from collections.abc import Mapping


def merges_from_scores(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every (left, right) that joins to a piece, in the order in which they must be preferred.

    Parameters
    ----------
    pieces : text pieces with their scores, a higher score joined earlier.
    """
    merges = []
    for piece in sorted(pieces, key=pieces.__getitem__, reverse=True):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in pieces and right in pieces:
                merges.append((left, right))
    return merges
