"""The pool of KV pages: who holds which page, counted.

A page holds the keys and values of `page_size` consecutive tokens in every layer. A page is
either free or has a positive reference count: one for each sequence that uses it and one more
while the prefix tree remembers it. free + held = total, always.
"""

from __future__ import annotations

from pascaline.core.errors import OutOfMemoryError


class PagePool:
    """Hands out page indices 0 … total − 1. Single-threaded."""

    def __init__(self, total: int) -> None:
        self.total = total
        # Last in, first out: recently used memory is handed out again before untouched memory.
        self._free = list(range(total - 1, -1, -1))
        self._references = [0] * total

    @property
    def free(self) -> int:
        return len(self._free)

    def references(self, page: int) -> int:
        return self._references[page]

    def allocate(self, count: int) -> list[int]:
        """`count` free pages, each with one reference.

        Raises
        ------
        OutOfMemoryError : fewer are free; nothing is allocated then.
        """
        if count > len(self._free):
            raise OutOfMemoryError(f"{count} KV pages wanted, {len(self._free)} of {self.total} free")
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._references[page] = 1
        return pages

    def share(self, page: int) -> None:
        """One more reference to a page that is held."""
        if self._references[page] < 1:
            raise ValueError(f"page {page} is free and cannot be shared")
        self._references[page] += 1

    def release(self, page: int) -> None:
        """One reference less; the last one frees the page."""
        if self._references[page] < 1:
            raise ValueError(f"page {page} is free already")
        self._references[page] -= 1
        if self._references[page] == 0:
            self._free.append(page)
