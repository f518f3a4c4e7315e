"""The page pool against a plain dictionary of reference counts."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pascaline.core.errors import OutOfMemoryError
from pascaline.kv.page_pool import PagePool


class PoolHistory(RuleBasedStateMachine):
    @initialize(total=st.integers(1, 12))
    def create(self, total: int) -> None:
        self.pool = PagePool(total)
        self.held: dict[int, int] = {}

    @rule(count=st.integers(0, 6))
    def allocate(self, count: int) -> None:
        free = self.pool.total - len(self.held)
        if count > free:
            with pytest.raises(OutOfMemoryError):
                self.pool.allocate(count)
            return
        pages = self.pool.allocate(count)
        assert len(set(pages)) == count
        assert not set(pages) & set(self.held)
        assert all(0 <= page < self.pool.total for page in pages)
        self.held.update(dict.fromkeys(pages, 1))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(sorted(self.held)))
        self.pool.share(page)
        self.held[page] += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(sorted(self.held)))
        self.pool.release(page)
        self.held[page] -= 1
        if not self.held[page]:
            del self.held[page]

    @invariant()
    def pages_are_conserved(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert self.pool.free + len(self.held) == self.pool.total
        counts = [self.pool.references(page) for page in range(self.pool.total)]
        assert counts == [self.held.get(page, 0) for page in range(self.pool.total)]


PoolHistory.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestPoolHistory = PoolHistory.TestCase


def test_a_failed_allocation_takes_nothing() -> None:
    pool = PagePool(3)
    with pytest.raises(OutOfMemoryError, match="4 KV pages wanted, 3 of 3 free"):
        pool.allocate(4)
    assert pool.free == 3


def test_free_pages_can_be_neither_shared_nor_released() -> None:
    pool = PagePool(1)
    with pytest.raises(ValueError, match="is free"):
        pool.share(0)
    [page] = pool.allocate(1)
    pool.release(page)
    with pytest.raises(ValueError, match="free already"):
        pool.release(page)
