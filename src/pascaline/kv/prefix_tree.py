"""Which pages already hold the keys and values of which token prefixes.

A tree of full pages: a node is one page, the edge to it that page's tokens, so a path from the
root spells a prefix. Only leaves are evicted, so a remembered prefix never has a hole; a leaf that
a sequence still uses keeps what is above it.

Source: Zheng et al. 2023, arXiv:2312.07104 (RadixAttention), with whole pages for edges.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from pascaline.kv.page_pool import PagePool


@dataclass(eq=False)
class _Node:
    page: int
    tokens: tuple[int, ...]
    parent: _Node | None
    last_used: int = 0
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)


class PrefixTree:
    """Finds and remembers prefixes; gives back the least recently used pages when asked."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self._pool = pool
        self._page_size = page_size
        self._root = _Node(page=-1, tokens=(), parent=None)
        self._clock = 0
        self.pages = 0
        """Pages that the tree holds a reference on."""

    def match(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Pages of the longest remembered prefix of at most `limit` tokens.

        The caller receives a reference on each page and has to release it.
        """
        self._clock += 1
        pages: list[int] = []
        node = self._root
        for start in range(0, limit - self._page_size + 1, self._page_size):
            child = node.children.get(tuple(tokens[start : start + self._page_size]))
            if child is None:
                break
            child.last_used = self._clock
            self._pool.share(child.page)
            pages.append(child.page)
            node = child
        return pages

    def insert(self, tokens: Sequence[int], pages: Sequence[int]) -> None:
        """Remember that `pages` hold the keys and values of `tokens`, as far as pages are full.

        Where a prefix is remembered already, the tree keeps its own page.
        """
        self._clock += 1
        node = self._root
        for index in range(len(tokens) // self._page_size):
            start = index * self._page_size
            edge = tuple(tokens[start : start + self._page_size])
            child = node.children.get(edge)
            if child is None:
                child = _Node(page=pages[index], tokens=edge, parent=node)
                node.children[edge] = child
                self._pool.share(child.page)
                self.pages += 1
            child.last_used = self._clock
            node = child

    def evict(self, count: int, least: int) -> int:
        """Free up to `count` pages that only the tree holds, least recently used first.

        Frees nothing where that would be fewer than `least`: what is remembered is not given up in
        vain. Returns how many were freed.
        """
        leaves = [
            (node.last_used, node.page, node)
            for node in self._nodes()
            if not node.children and self._idle(node)
        ]
        heapq.heapify(leaves)
        victims: list[_Node] = []
        children_left: dict[_Node, int] = {}
        while leaves and len(victims) < count:
            _, _, node = heapq.heappop(leaves)
            victims.append(node)
            parent = node.parent
            if parent is None or parent is self._root:
                continue
            children_left[parent] = children_left.get(parent, len(parent.children)) - 1
            if not children_left[parent] and self._idle(parent):
                heapq.heappush(leaves, (parent.last_used, parent.page, parent))
        if len(victims) < least:
            return 0
        for node in victims:
            del (node.parent or self._root).children[node.tokens]
            self._pool.release(node.page)
        self.pages -= len(victims)
        return len(victims)

    def _idle(self, node: _Node) -> bool:
        return self._pool.references(node.page) == 1

    def _nodes(self) -> list[_Node]:
        found: list[_Node] = []
        pending = list(self._root.children.values())
        while pending:
            node = pending.pop()
            found.append(node)
            pending.extend(node.children.values())
        return found
