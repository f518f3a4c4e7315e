"""What may follow in a text that repeats itself: what followed when its last tokens came before."""

from __future__ import annotations

LENGTHS = (3, 2)
"""Of the runs of tokens that are looked up, the longest first."""


class LookUp:
    """Where runs of tokens came last, of a text that only grows.

    >>> LookUp().draft([1, 2, 3, 9, 1, 2, 3], 2)
    [9, 1]
    """

    def __init__(self) -> None:
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in LENGTHS]
        self._indexed = 0

    def draft(self, tokens: list[int], most: int) -> list[int]:
        """`most` tokens that followed the last ones where these came before, the latest time; empty if never.

        Where the text's end is reached, the draft goes on in itself, as a text does that repeats a period.

        Parameters
        ----------
        tokens : those of the call before, and more behind them.
        """
        self._index(tokens)
        for length, places in zip(LENGTHS, self._places, strict=True):
            place = places.get(tuple(tokens[-length:]))
            if place is not None:
                period = len(tokens) - place
                return [tokens[place + index % period] for index in range(most)]
        return []

    def _index(self, tokens: list[int]) -> None:
        """Of all runs but the last, which is what is looked up, the place behind them."""
        for end in range(self._indexed + 1, len(tokens)):
            for length, places in zip(LENGTHS, self._places, strict=True):
                if end >= length:
                    places[tuple(tokens[end - length : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
