"""The prefix tree against a shadow memory that knows what every page was filled with."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pascaline.kv.page_pool import PagePool
from pascaline.kv.prefix_tree import PrefixTree

PAGE = 2
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=11)


class TreeHistory(RuleBasedStateMachine):
    """Holders take the longest remembered prefix, compute the rest, and may be remembered themselves."""

    @initialize(total=st.integers(4, 14))
    def create(self, total: int) -> None:
        self.pool = PagePool(total)
        self.tree = PrefixTree(self.pool, PAGE)
        self.memory: dict[int, tuple[int, ...]] = {}
        """Page -> the whole prefix up to its end: keys and values depend on all tokens before."""
        self.holders: list[tuple[list[int], list[int]]] = []
        self.known: set[tuple[int, ...]] = set()
        """Prefixes that a fresh tree without evictions would know."""

    @rule(tokens=TOKENS)
    def start(self, tokens: list[int]) -> None:
        pages = self.tree.match(tokens, len(tokens))
        for index, page in enumerate(pages):
            assert self.memory[page] == tuple(tokens[: (index + 1) * PAGE])
        matched = len(pages) * PAGE
        longest = max(
            (n for n in range(0, len(tokens) + 1, PAGE) if tuple(tokens[:n]) in self.known), default=0
        )
        assert matched == longest
        needed = -(-len(tokens) // PAGE) - len(pages)
        missing = needed - self.pool.free
        before = self.tree.pages
        if missing > 0:
            freed = self.tree.evict(missing, missing)
            assert freed in (0, missing)
            assert self.tree.pages == before - freed
            self.forget()
        if needed > self.pool.free:
            for page in pages:
                self.pool.release(page)
            return
        pages += self.pool.allocate(needed)
        for index in range(matched // PAGE, len(tokens) // PAGE):
            self.memory[pages[index]] = tuple(tokens[: (index + 1) * PAGE])
        self.holders.append((tokens, pages))

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), remember=st.booleans())
    def end(self, data: st.DataObject, remember: bool) -> None:
        tokens, pages = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        if remember:
            self.tree.insert(tokens, pages)
            self.known |= {tuple(tokens[:n]) for n in range(PAGE, len(tokens) + 1, PAGE)}
        for page in pages:
            self.pool.release(page)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def remember_early(self, data: st.DataObject) -> None:
        tokens, pages = data.draw(st.sampled_from(self.holders))
        self.tree.insert(tokens, pages)
        self.known |= {tuple(tokens[:n]) for n in range(PAGE, len(tokens) + 1, PAGE)}

    @rule(count=st.integers(1, 5))
    def evict(self, count: int) -> None:
        before = self.tree.pages
        freed = self.tree.evict(count, 1)
        assert freed <= count
        assert self.tree.pages == before - freed
        self.forget()

    def paths(self) -> dict[int, tuple[int, ...]]:
        """Every remembered page with the tokens on its way from the root."""
        found: dict[int, tuple[int, ...]] = {}
        for node in self.tree._nodes():
            tokens, above = node.tokens, node.parent
            while above is not None:
                tokens, above = above.tokens + tokens, above.parent
            assert node.page not in found
            found[node.page] = tokens
        return found

    def forget(self) -> None:
        self.known = set(self.paths().values())

    @invariant()
    def counts_and_contents_are_right(self) -> None:
        if not hasattr(self, "tree"):
            return
        paths = self.paths()
        assert len(paths) == self.tree.pages
        assert all(self.memory[page] == tokens for page, tokens in paths.items())
        assert set(paths.values()) == self.known
        for page in range(self.pool.total):
            holders = sum(pages.count(page) for _, pages in self.holders)
            assert self.pool.references(page) == holders + (page in paths)

    def teardown(self) -> None:
        if not hasattr(self, "tree"):
            return
        for _, pages in self.holders:
            for page in pages:
                self.pool.release(page)
        assert self.pool.free + self.tree.pages == self.pool.total
        self.tree.evict(self.pool.total, 0)
        assert (self.pool.free, self.tree.pages) == (self.pool.total, 0)


TreeHistory.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestTreeHistory = TreeHistory.TestCase


def remember(pool: PagePool, tree: PrefixTree, tokens: list[int]) -> None:
    pages = pool.allocate(-(-len(tokens) // PAGE))
    tree.insert(tokens, pages)
    for page in pages:
        pool.release(page)


def test_match_gives_full_pages_up_to_the_limit() -> None:
    pool = PagePool(8)
    tree = PrefixTree(pool, PAGE)
    remember(pool, tree, [1, 2, 3, 4, 5])
    assert tree.pages == 2
    assert len(tree.match([1, 2, 3, 4, 5], 5)) == 2
    assert len(tree.match([1, 2, 3, 4], 3)) == 1
    assert tree.match([1, 2, 3, 4], 0) == []
    assert tree.match([2, 1, 3, 4], 4) == []


def test_the_least_recently_used_leaf_goes_first() -> None:
    pool = PagePool(8)
    tree = PrefixTree(pool, PAGE)
    remember(pool, tree, [1, 1, 2, 2])
    remember(pool, tree, [1, 1, 3, 3])
    remember(pool, tree, [4, 4])
    for page in tree.match([1, 1, 2, 2], 4):
        pool.release(page)
    assert tree.evict(2, 2) == 2
    kept = tree.match([1, 1, 2, 2], 4)
    assert len(kept) == 2
    assert tree.match([4, 4], 2) == []


def test_what_does_not_suffice_is_not_evicted() -> None:
    pool = PagePool(4)
    tree = PrefixTree(pool, PAGE)
    remember(pool, tree, [1, 1, 2, 2])
    assert tree.evict(3, 3) == 0
    assert tree.pages == 2
    assert tree.evict(3, 2) == 2
    assert pool.free == 4


def test_a_page_in_use_keeps_those_above_it() -> None:
    pool = PagePool(4)
    tree = PrefixTree(pool, PAGE)
    remember(pool, tree, [1, 1, 2, 2])
    above, below = tree.match([1, 1, 2, 2], 4)
    pool.release(above)
    assert tree.evict(4, 1) == 0
    pool.release(below)
    assert tree.evict(4, 1) == 2
