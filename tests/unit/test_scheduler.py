"""Random histories of the scheduler without a model, against a shadow memory of the KV pages."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pascaline.engine.batch import prepare
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.scheduler import Scheduler
from pascaline.engine.sequence import Chunk, Sequence
from pascaline.kv.pages import PAGE_SIZE, pages_for


class Simulation:
    """What the engine core does around a scheduler, with a memory of prefixes instead of a model.

    A slot of the memory holds a fingerprint of the token written there and of all before it, since
    keys and values depend on those too.
    """

    def __init__(self, pages: int, max_batch_tokens: int, max_sequences: int, seed: int = 0) -> None:
        self.scheduler = Scheduler(pages, max_batch_tokens, max_sequences)
        self.max_batch_tokens = max_batch_tokens
        self.max_sequences = max_sequences
        self.longest = pages * PAGE_SIZE
        self.live: dict[int, list[Sequence]] = {}
        self.memory: dict[int, int] = {}
        self.random = random.Random(seed)
        self.computed_tokens = 0
        self._orders = 0
        self._requests = 0

    def submit(self, prompt: list[int], params: SamplingParams) -> int:
        self._requests += 1
        leader: Sequence | None = None
        for index in range(params.n):
            sequence = Sequence(
                self._requests, index, self._orders, params, 0, list(prompt), len(prompt), leader
            )
            leader = leader or sequence
            self._orders += 1
            self.live.setdefault(self._requests, []).append(sequence)
            self.scheduler.add(sequence)
        return self._requests

    def abort(self, request_id: int, index: int | None = None) -> None:
        for sequence in list(self.live[request_id]):
            if index is None or sequence.index == index:
                self.drop(sequence)

    def drop(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        self.live[sequence.request_id].remove(sequence)
        if not self.live[sequence.request_id]:
            del self.live[sequence.request_id]

    def step(self) -> list[Chunk]:
        chunks = self.scheduler.schedule()
        self.check_chunks(chunks)
        if not chunks:
            return chunks
        prepared = prepare(chunks)
        self.compute(chunks, prepared.batch.slots.tolist())
        self.check_rows(chunks, prepared.batch.logit_rows.tolist())
        for row in prepared.prompt_rows:
            if row.position == len(row.sequence.prompt_logprobs) + 1:
                row.sequence.prompt_logprobs.append(None)  # type: ignore[arg-type]
        self.scheduler.launched(chunks)
        self.scheduler.commit(chunks)
        for sequence in [row.sequence for row in prepared.sampled]:
            if sequence.params.prompt_logprobs is not None and sequence.index == 0:
                assert len(sequence.prompt_logprobs) == sequence.prompt_length - 1
            sequence.prompt_reported = True
            sequence.append(self.random.randrange(3))
            limit = sequence.params.max_tokens
            if sequence.output_length == limit or len(sequence.tokens) >= self.longest:
                self.drop(sequence)
        return chunks

    def check_chunks(self, chunks: list[Chunk]) -> None:
        assert len({id(chunk.sequence) for chunk in chunks}) == len(chunks) <= self.max_sequences
        assert len(self.scheduler.running) <= self.max_sequences
        assert sum(chunk.count for chunk in chunks) <= self.max_batch_tokens
        for chunk in chunks:
            assert chunk.sequence in self.scheduler.running
            assert chunk.start == chunk.sequence.computed
            assert chunk.count > 0
            assert chunk.stop <= len(chunk.sequence.tokens)
            assert len(chunk.sequence.pages) >= pages_for(chunk.stop)

    def compute(self, chunks: list[Chunk], slots: list[int]) -> None:
        """What was computed before, or found in the tree, is there; then write what is new."""
        expected_slots = []
        for chunk in chunks:
            prints = fingerprints(chunk.sequence.tokens[: chunk.stop])
            where = [slot_of(chunk.sequence, position) for position in range(chunk.stop)]
            assert [self.memory[slot] for slot in where[: chunk.start]] == prints[: chunk.start]
            for slot, value in zip(where[chunk.start :], prints[chunk.start :], strict=True):
                # A page that is being filled belongs to nobody else, and not to the tree.
                assert self.scheduler.pool.references(slot // PAGE_SIZE) == 1
                self.memory[slot] = value
            expected_slots += where[chunk.start :]
            self.computed_tokens += chunk.count
        assert slots == expected_slots
        assert len(set(slots)) == len(slots)

    def check_rows(self, chunks: list[Chunk], logit_rows: list[int]) -> None:
        expected = []
        first = 0
        for chunk in chunks:
            sequence = chunk.sequence
            for position in range(chunk.start, chunk.stop):
                predicts_prompt = sequence.wants_prompt_logprobs and position + 1 < sequence.prompt_length
                if predicts_prompt or position + 1 == len(sequence.tokens):
                    expected.append(first + position - chunk.start)
            first += chunk.count
        assert logit_rows == expected

    def check_pages(self) -> None:
        scheduler = self.scheduler
        held: dict[int, int] = {}
        for sequence in scheduler.running:
            assert len(set(sequence.pages)) == len(sequence.pages)
            for page in sequence.pages:
                held[page] = held.get(page, 0) + 1
        for node in scheduler.prefixes._nodes():
            held[node.page] = held.get(node.page, 0) + 1
            prefix, above = node.tokens, node.parent
            while above is not None:
                prefix, above = above.tokens + prefix, above.parent
            prints = fingerprints(prefix)[-PAGE_SIZE:]
            assert [self.memory[node.page * PAGE_SIZE + offset] for offset in range(PAGE_SIZE)] == prints
        assert all(not sequence.pages and not sequence.computed for sequence in scheduler.waiting)
        assert scheduler.pool.free + len(held) == scheduler.pool.total
        for page in range(scheduler.pool.total):
            assert scheduler.pool.references(page) == held.get(page, 0)

    def check_queues(self) -> None:
        scheduler = self.scheduler
        for queue in (scheduler.running, scheduler.waiting):
            orders = [sequence.order for sequence in queue]
            assert orders == sorted(orders)
        everyone = [sequence for group in self.live.values() for sequence in group]
        assert {id(item) for item in everyone} == {id(s) for s in scheduler.running + scheduler.waiting}
        assert len(everyone) == len(scheduler.running) + len(scheduler.waiting)

    def drain(self) -> None:
        """Run to the end: every step must bring the oldest sequence or one that it waits for forward."""
        steps = 0
        while self.live:
            everyone = [sequence for group in self.live.values() for sequence in group]
            # Each generated token costs at most one step, and one more where pages run out; each
            # prompt chunk one.
            if not steps:
                limit = 10 + 2 * sum(len(s.tokens) + (s.params.max_tokens or self.longest) for s in everyone)
            oldest = min(everyone, key=lambda item: item.order)
            before = (oldest.output_length, oldest.computed)
            chunks = self.step()
            self.check_pages()
            if oldest in (chunk.sequence for chunk in chunks) and not oldest.finished:
                assert (oldest.output_length, oldest.computed) > before
            # Nothing is older than the oldest that runs, so its pages are never taken for another's.
            if self.scheduler.running and oldest is self.scheduler.running[0] and len(self.live) > 1:
                assert oldest in (chunk.sequence for chunk in chunks) or oldest.finished
            steps += 1
            assert steps <= limit, "no end in sight"
        assert not self.scheduler.running
        assert not self.scheduler.waiting
        assert self.scheduler.schedule() == []
        assert self.scheduler.pool.free + self.scheduler.prefixes.pages == self.scheduler.pool.total


def slot_of(sequence: Sequence, position: int) -> int:
    return sequence.pages[position // PAGE_SIZE] * PAGE_SIZE + position % PAGE_SIZE


def fingerprints(tokens: list[int] | tuple[int, ...]) -> list[int]:
    found: list[int] = []
    value = 0
    for token in tokens:
        value = hash((value, token))
        found.append(value)
    return found


class History(RuleBasedStateMachine):
    @initialize(
        pages=st.integers(5, 14),
        max_sequences=st.integers(1, 5),
        room=st.integers(0, 40),
        seed=st.integers(0, 1000),
    )
    def create(self, pages: int, max_sequences: int, room: int, seed: int) -> None:
        self.simulation = Simulation(pages, max_sequences + room, max_sequences, seed)
        self.bases = [[self.simulation.random.randrange(3) for _ in range(64)] for _ in range(2)]

    @rule(
        base=st.integers(0, 1),
        shared=st.integers(0, 64),
        tail=st.lists(st.integers(0, 2), max_size=14),
        n=st.sampled_from((1, 1, 2, 3)),
        max_tokens=st.sampled_from((1, 2, 20, 40, None)),
        prompt_logprobs=st.booleans(),
    )
    def submit(
        self,
        base: int,
        shared: int,
        tail: list[int],
        n: int,
        max_tokens: int | None,
        prompt_logprobs: bool,
    ) -> None:
        prompt = (self.bases[base][:shared] + tail)[: self.simulation.longest - 1] or [1]
        self.simulation.submit(
            prompt,
            SamplingParams(n=n, max_tokens=max_tokens, prompt_logprobs=0 if prompt_logprobs else None),
        )

    @precondition(lambda self: self.simulation.live)
    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.simulation.step()
            self.simulation.check_pages()

    @precondition(lambda self: self.simulation.live)
    @rule(data=st.data(), whole=st.booleans())
    def abort(self, data: st.DataObject, whole: bool) -> None:
        request = data.draw(st.sampled_from(sorted(self.simulation.live)))
        index = data.draw(st.sampled_from([s.index for s in self.simulation.live[request]]))
        self.simulation.abort(request, None if whole else index)

    @invariant()
    def everything_is_where_it_belongs(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.check_pages()
            self.simulation.check_queues()

    def teardown(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.drain()


History.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestHistory = History.TestCase


def test_decoding_comes_first_and_prompts_take_the_room_that_is_left() -> None:
    simulation = Simulation(pages=20, max_batch_tokens=8, max_sequences=3)
    simulation.submit([1] * 4, SamplingParams(max_tokens=9))
    simulation.step()
    simulation.submit([2] * 20, SamplingParams(max_tokens=2))
    simulation.submit([0] * 3, SamplingParams(max_tokens=2))
    assert [chunk.count for chunk in simulation.step()] == [1, 7]
    assert [chunk.count for chunk in simulation.step()] == [1, 7]
    # The rest of the long prompt leaves room for the next arrival's beginning.
    assert [chunk.count for chunk in simulation.step()] == [1, 6, 1]
    assert [chunk.count for chunk in simulation.step()] == [1, 1, 2]


def test_continuations_wait_for_the_first_and_share_its_prompt() -> None:
    simulation = Simulation(pages=20, max_batch_tokens=64, max_sequences=8)
    [request] = [simulation.submit([1] * 40, SamplingParams(n=4, max_tokens=5))]
    assert [chunk.count for chunk in simulation.step()] == [40]
    assert [chunk.count for chunk in simulation.step()] == [1, 8, 8, 8]
    pages = [sequence.pages for sequence in simulation.live[request]]
    assert {tuple(item[:2]) for item in pages} == {tuple(pages[0][:2])}
    assert len({item[2] for item in pages}) == 4
    assert [s.cached_tokens for s in simulation.live[request]] == [0, 32, 32, 32]


def test_continuations_go_on_when_the_first_is_dropped() -> None:
    simulation = Simulation(pages=20, max_batch_tokens=64, max_sequences=8)
    request = simulation.submit([1] * 40, SamplingParams(n=3, max_tokens=5))
    simulation.abort(request, 0)
    assert len(simulation.step()) > 0
    simulation.drain()


def test_the_latest_arrival_gives_way_and_finds_its_pages_again() -> None:
    simulation = Simulation(pages=6, max_batch_tokens=64, max_sequences=2)
    first = simulation.submit([1] * 40, SamplingParams(max_tokens=30))
    second = simulation.submit([2] * 40, SamplingParams(max_tokens=30))
    [older], [newer] = simulation.live[first], simulation.live[second]
    while not simulation.scheduler.preemptions:
        simulation.step()
    assert simulation.scheduler.running == [older]
    assert simulation.scheduler.waiting == [newer]
    before = newer.tokens.copy()
    simulation.drain()
    assert newer.tokens[: len(before)] == before
    assert older.output_length == newer.output_length == 30


def test_a_request_that_has_to_wait_does_not_empty_the_prefix_tree() -> None:
    simulation = Simulation(pages=8, max_batch_tokens=200, max_sequences=4)
    simulation.submit([1] * 33, SamplingParams(max_tokens=1))
    simulation.drain()
    assert simulation.scheduler.prefixes.pages == 2
    simulation.submit([2] * 60, SamplingParams(max_tokens=4))
    simulation.submit([0] * 100, SamplingParams(max_tokens=1))
    simulation.step()
    assert len(simulation.scheduler.waiting) == 1
    assert simulation.scheduler.prefixes.match([1] * 33, 32) != []


def test_finishing_a_waiting_sequence_is_fine() -> None:
    simulation = Simulation(pages=4, max_batch_tokens=16, max_sequences=1)
    simulation.submit([1] * 8, SamplingParams(max_tokens=3))
    waiting = simulation.submit([2] * 8, SamplingParams(max_tokens=3))
    simulation.step()
    simulation.abort(waiting)
    simulation.drain()


def test_an_older_prompt_does_not_hold_up_what_decodes() -> None:
    simulation = Simulation(pages=20, max_batch_tokens=8, max_sequences=3)
    simulation.submit([1] * 47, SamplingParams(n=2, max_tokens=9))
    short = simulation.submit([2], SamplingParams(max_tokens=9))
    while short not in {chunk.sequence.request_id for chunk in simulation.step()}:
        pass
    # The second continuation is older than the short request and has 15 tokens left to compute.
    for _ in range(3):
        assert [chunk.sequence.request_id for chunk in simulation.step()].count(short) == 1


def _running(scheduler: Scheduler, *lengths: int) -> list[Sequence]:
    """Sequences whose prompts have been computed and whose first token is pending, as on a card."""
    sequences = [
        Sequence(number, 0, number, SamplingParams(max_tokens=50), 0, [number] * length, length)
        for number, length in enumerate(lengths)
    ]
    for sequence in sequences:
        scheduler.add(sequence)
    chunks = scheduler.schedule()
    assert len(chunks) == len(sequences)
    scheduler.launched(chunks)
    for sequence in sequences:
        sequence.pending = 1
    return sequences


def test_a_step_ahead_is_one_more_token_each() -> None:
    scheduler = Scheduler(pages=6, max_batch_tokens=64, max_sequences=3)
    first, second, _ = sequences = _running(scheduler, 16, 20, 3)
    # The third ends with the token that is pending.
    assert scheduler.schedule_ahead([first, second]) == [Chunk(first, 16, 1), Chunk(second, 20, 1)]
    assert [len(each.pages) for each in sequences] == [2, 2, 1]
    assert scheduler.schedule_ahead([]) == []


def test_what_keeps_a_step_from_being_ahead() -> None:
    short = Scheduler(pages=3, max_batch_tokens=64, max_sequences=3)
    sequences = _running(short, 16, 20)
    assert short.schedule_ahead(sequences) == [], "pages are short"
    assert [len(each.pages) for each in sequences] == [1, 2], "and nothing was taken"
    assert short.schedule_ahead(sequences[1:]) != []
    arrival = Sequence(9, 0, 9, SamplingParams(), 0, [1], 1)
    short.add(arrival)
    assert short.schedule_ahead(sequences[1:]) == [], "an arrival may be admitted"
    full = Scheduler(pages=9, max_batch_tokens=64, max_sequences=2)
    sequences = _running(full, 16, 20)
    full.add(arrival)
    assert full.schedule_ahead(sequences) != [], "there is no room for it anyway"
    chunked = Scheduler(pages=9, max_batch_tokens=24, max_sequences=2)
    sequences = _running(chunked, 16, 20)
    assert chunked.schedule_ahead(sequences) == [], "a prompt is under way"


def test_drafts_take_pages_but_nobody_elses() -> None:
    scheduler = Scheduler(pages=4, max_batch_tokens=64, max_sequences=3)
    first, second = sequences = _running(scheduler, 30, 15)
    chunks = scheduler.schedule_ahead(sequences)
    drafted = scheduler.with_drafts(chunks, {first: [7, 8, 9], second: [5, 6]})
    assert drafted == [Chunk(first, 30, 4, (7, 8, 9)), Chunk(second, 15, 1)], "one page was left"
    assert [(chunk.known_stop, chunk.stop, chunk.samples) for chunk in drafted] == [
        (31, 34, True),
        (16, 16, True),
    ]
    scheduler.launched(drafted)
    assert (first.computed, second.computed) == (31, 16)
    # The pending token and one of the draft came true: 32 tokens are computed, one more is to be.
    first.pending = 0
    first.tokens += [0, 7, 3]
    scheduler.commit(drafted[:1])
    scheduler.accept(first)
    scheduler.trim(first)
    assert (first.computed, first.settled, len(first.pages)) == (32, 32, 3)
    first.tokens.pop()
    scheduler.trim(first)
    assert (len(first.pages), scheduler.pool.free) == (2, 1)


def test_drafts_take_pages_of_what_is_only_remembered() -> None:
    scheduler = Scheduler(pages=3, max_batch_tokens=64, max_sequences=3)
    scheduler.prefixes.insert([4] * 16, pages := scheduler.pool.allocate(1))
    scheduler.pool.release(pages[0])
    [sequence] = _running(scheduler, 31)
    chunks = scheduler.with_drafts(scheduler.schedule_ahead([sequence]), {sequence: [1, 2]})
    assert chunks == [Chunk(sequence, 31, 3, (1, 2))]
    assert scheduler.prefixes.pages == 0


def test_what_is_under_way_is_not_remembered() -> None:
    scheduler = Scheduler(pages=9, max_batch_tokens=80, max_sequences=3)
    unread, read = _running(scheduler, 40, 31)
    scheduler.commit([Chunk(read, 0, 31)])
    assert scheduler.prefixes.pages == 1
    scheduler.launched(scheduler.schedule_ahead([unread, read]))
    assert (read.computed, read.settled) == (32, 31)
    for sequence in (unread, read):
        scheduler.finish(sequence)
    assert scheduler.prefixes.pages == 1
    assert scheduler.pool.free == 8
