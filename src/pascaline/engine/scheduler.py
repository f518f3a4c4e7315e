"""Which sequences compute which tokens in the next step; who waits; who is sent back to wait.

Every step has room for `max_batch_tokens` new tokens. Sequences that decode come first (one token
each), then prompts under way, then new arrivals, in order of arrival; a prompt takes what room is
left and goes on in the next step. When pages run out, the latest arrival gives its pages back and
is computed again later (its prefix often still lies in the tree).
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping

from pascaline.engine.sequence import Chunk, Sequence
from pascaline.kv.page_pool import PagePool
from pascaline.kv.pages import PAGE_SIZE, pages_for
from pascaline.kv.prefix_tree import PrefixTree


class Scheduler:
    """Owns the waiting and running sequences and their pages. Single-threaded."""

    EVICT_SHARE = 32
    """When pages are needed, at least total / 32 are evicted at once: walking the tree costs."""

    def __init__(self, pages: int, max_batch_tokens: int, max_sequences: int) -> None:
        self.pool = PagePool(pages)
        self.prefixes = PrefixTree(self.pool, PAGE_SIZE)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self.max_batch_tokens = max_batch_tokens
        self._max_sequences = max_sequences

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        bisect.insort(self.waiting, sequence, key=lambda item: item.order)

    def finish(self, sequence: Sequence) -> None:
        """Drop a sequence, finished or not; its pages are free or remembered from now on."""
        sequence.finished = True
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._give_back(sequence)

    def schedule(self) -> list[Chunk]:
        """The next step's chunks; pages for them are allocated. Empty when there is no work."""
        chunks: dict[Sequence, Chunk] = {}
        room = self.max_batch_tokens
        preempted = False
        for sequence in sorted(self.running, key=lambda item: (item.uncomputed > 1, item.order)):
            if sequence not in self.running:
                continue
            count = min(sequence.uncomputed, room)
            while count and not self._extend(sequence, sequence.computed + count):
                victim = self.running[-1]
                dropped = chunks.pop(victim, None)
                room += dropped.count if dropped else 0
                self._preempt(victim)
                preempted = True
                if victim is sequence:
                    count = 0
            if count:
                chunks[sequence] = Chunk(sequence, sequence.computed, count)
                room -= count
        if not preempted:
            self._admit(chunks, room)
        return list(chunks.values())

    def halve_steps(self, tokens: int) -> bool:
        """Have at most half of `tokens` in a step from now on; False where as many sequences decode."""
        least = max(1, sum(sequence.uncomputed == 1 for sequence in self.running))
        if tokens // 2 < least:
            return False
        self.max_batch_tokens = tokens // 2
        return True

    def schedule_ahead(self, continuing: list[Sequence]) -> list[Chunk]:
        """The step after one whose results are not known yet: one more token for each of `continuing`.

        Empty where that would be another step than `schedule` would choose with the results, or where pages
        are short: then they are waited for.
        """
        admits = self.waiting and len(self.running) < self._max_sequences
        if admits or any(sequence.uncomputed != 1 for sequence in self.running):
            return []
        needed = sum(max(0, pages_for(each.length) - len(each.pages)) for each in continuing)
        if needed > self.pool.free:
            return []
        for sequence in continuing:
            self._extend(sequence, sequence.length)
        return [Chunk(sequence, sequence.computed, 1) for sequence in continuing]

    def with_drafts(self, chunks: list[Chunk], drafts: Mapping[Sequence, list[int]]) -> list[Chunk]:
        """The chunks with drafts behind them, where there are pages for these without a preemption."""
        drafted: list[Chunk] = []
        for chunk in chunks:
            draft = tuple(drafts.get(chunk.sequence, ()))
            if draft and self._extend(chunk.sequence, chunk.stop + len(draft)):
                chunk = Chunk(chunk.sequence, chunk.start, chunk.count + len(draft), draft)
            drafted.append(chunk)
        return drafted

    def trim(self, sequence: Sequence) -> None:
        """Give pages back that a draft has not come to need, so that others need not wait for them."""
        needed = pages_for(sequence.length)
        for page in sequence.pages[needed:]:
            self.pool.release(page)
        del sequence.pages[needed:]

    def launched(self, chunks: list[Chunk]) -> None:
        """The chunks are being computed: what is launched from now on comes after them."""
        for chunk in chunks:
            chunk.sequence.computed = chunk.known_stop

    def commit(self, chunks: list[Chunk]) -> None:
        """The chunks have been computed; prompts that are complete are remembered for others."""
        for chunk in chunks:
            chunk.sequence.settled = chunk.known_stop
            if chunk.start < chunk.sequence.prompt_length <= chunk.known_stop:
                self._remember(chunk.sequence)

    def accept(self, sequence: Sequence) -> None:
        """One more token of a draft, whose step's results were read, is the sequence's."""
        sequence.computed += 1
        sequence.settled = sequence.computed

    def forget(self, sequence: Sequence) -> None:
        """Have nothing remembered of what the sequence, which is to be finished, computed."""
        sequence.settled = 0

    def _admit(self, chunks: dict[Sequence, Chunk], room: int) -> None:
        for sequence in list(self.waiting):
            if not room or len(self.running) >= self._max_sequences:
                return
            leader = sequence.leader
            if leader is not None and not leader.finished and not leader.prompt_computed:
                continue
            if not self._start(sequence):
                return
            self.waiting.remove(sequence)
            bisect.insort(self.running, sequence, key=lambda item: item.order)
            count = min(sequence.uncomputed, room)
            chunks[sequence] = Chunk(sequence, sequence.computed, count)
            room -= count

    def _start(self, sequence: Sequence) -> bool:
        """Give a waiting sequence pages for all of its tokens, remembered ones first."""
        # The last token is always computed: its logits choose the next one. Prompt log-probabilities
        # need the logits of every prompt token.
        limit = 0 if sequence.wants_prompt_logprobs else len(sequence.tokens) - 1
        sequence.pages = self.prefixes.match(sequence.tokens, limit)
        sequence.computed = sequence.settled = len(sequence.pages) * PAGE_SIZE
        if not self._extend(sequence, len(sequence.tokens)):
            self._give_back(sequence)
            return False
        if not sequence.prompt_reported:
            sequence.cached_tokens = sequence.computed
        return True

    def _extend(self, sequence: Sequence, tokens: int) -> bool:
        """Make the sequence's pages hold `tokens` tokens; False when there are not enough."""
        needed = pages_for(tokens) - len(sequence.pages)
        if needed <= 0:
            return True
        missing = needed - self.pool.free
        if missing > 0:
            self.prefixes.evict(max(missing, self.pool.total // self.EVICT_SHARE), missing)
        if needed > self.pool.free:
            return False
        sequence.pages += self.pool.allocate(needed)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._give_back(sequence)
        self.add(sequence)

    def _give_back(self, sequence: Sequence) -> None:
        self._remember(sequence)
        for page in sequence.pages:
            self.pool.release(page)
        sequence.pages = []
        sequence.computed = sequence.settled = 0

    def _remember(self, sequence: Sequence) -> None:
        # What is under way may turn out to be no numbers.
        self.prefixes.insert(sequence.tokens[: sequence.settled], sequence.pages)
