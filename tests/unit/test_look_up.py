"""Drafts against a search through the whole text, and when they are computed."""

from __future__ import annotations

import random

import pytest

from pascaline.engine.look_up import LookUp
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.engine.speculation import COUNTS, Speculation, StepTimes


def searched(tokens: list[int], most: int) -> list[int]:
    for length in (3, 2):
        if length > len(tokens):
            continue
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[-length:]:
                text = list(tokens)
                for index in range(most):
                    text.append(text[end + index])
                return text[len(tokens) :]
    return []


@pytest.mark.parametrize("alphabet", [1, 2, 5, 40])
def test_drafts_are_what_a_search_finds(alphabet: int) -> None:
    shuffle = random.Random(alphabet)
    look_up, tokens = LookUp(), [shuffle.randrange(alphabet)]
    found = 0
    for _ in range(300):
        draft = look_up.draft(tokens, 5)
        assert draft == searched(tokens, 5)
        found += bool(draft)
        tokens += [shuffle.randrange(alphabet) for _ in range(shuffle.choice((1, 1, 1, 4)))]
    assert found > 20


def sequence_of(tokens: list[int], prompt: int = 1) -> Sequence:
    params = SamplingParams(temperature=0.0)
    return Sequence(1, 0, 0, params, 0, list(tokens), prompt, computed=len(tokens) - 1)


def grown(speculation: Speculation, sequence: Sequence, text: list[int]) -> list[int]:
    """Lengths of the drafts that are chosen while a sequence becomes `text`."""
    chosen = []
    for token in text:
        chosen.append(len(speculation.choose([sequence], lambda _: 100, 512).get(sequence, ())))
        sequence.append(token)
    return chosen


def test_a_text_that_repeats_is_drafted_and_one_that_never_does_as_foreseen_is_not() -> None:
    period = list(range(50))
    assert set(grown(Speculation(8), sequence_of(period * 2), period)) == {max(COUNTS)}
    # Each pair of tokens comes again, and something else follows.
    shuffle = random.Random(0)
    text = [value for _ in range(150) for value in (1, 2, shuffle.randrange(3, 10**6))]
    chosen = grown(Speculation(8), sequence_of([7]), text)
    assert 0 < sum(count > 0 for count in chosen) <= 5


def test_what_costs_more_than_it_gives_is_not_chosen() -> None:
    period = list(range(50))
    slow = Speculation(8)
    for count in (*COUNTS, 0):
        for _ in range(3):
            slow.times.add(1, 1 + count, 10.0 if count else 1.0)
    assert set(grown(slow, sequence_of(period * 2), period)) == {0}
    short = Speculation(8)
    for count, seconds in ((7, 10.0), (3, 1.5), (1, 1.4), (0, 1.0)):
        for _ in range(3):
            short.times.add(1, 1 + count, seconds)
    assert set(grown(short, sequence_of(period * 2), period)[5:]) == {3}


def test_a_time_is_forgotten_in_the_end() -> None:
    times = StepTimes()
    for rows in (1, 8):
        for _ in range(3):
            times.add(1, rows, float(rows))
    assert times.cost(1, 8) == 8.0
    assert times.cost(1, 1) == 1.0
    for _ in range(5000):
        times.add(1, 1, 1.0)
    assert times.cost(1, 8) < 2.0


def test_a_pending_token_makes_drafts_less_certain_and_comes_first() -> None:
    period = list(range(50))
    sequence = sequence_of(period * 2)
    speculation = Speculation(8)
    certain = speculation.choose([sequence], lambda _: 100, 512)
    sequence.pending = 1
    ahead = speculation.choose([sequence], lambda _: 100, 512)
    assert (certain[sequence], ahead[sequence]) == (period[:7], period[1:8])
    # At 0.35 for each, seven tokens give 0.54 more than a step; behind a pending one 0.19.
    sequence.pending = 0
    sequence.append(period[49])
    assert speculation.choose([sequence], lambda _: 100, 512) == {}, "49 49 never came before"
    sequence.tokens += period[48:50]
    assert speculation.choose([sequence], lambda _: 100, 512)[sequence][:3] == [49, 48, 49]
    sequence.pending = 1
    assert speculation.choose([sequence], lambda _: 100, 512) == {}


def test_limits() -> None:
    period = list(range(20))
    sequences = [sequence_of(period * 2 + period[: 5 + number]) for number in range(5)]
    speculation = Speculation(12)
    assert speculation.choose(sequences, lambda _: 9, 512) == {}, "of five sequences"
    drafts = speculation.choose(sequences[:3], lambda _: 9, 512)
    assert sum(map(len, drafts.values())) == 9
    for sequence, draft in drafts.items():
        first = len(sequence.tokens) % 20
        assert draft == period[first : first + len(draft)]
    assert speculation.choose(sequences[:2], lambda _: 0, 512) == {}
    assert sum(map(len, speculation.choose(sequences[:2], lambda _: 9, 4).values())) == 2
    assert speculation.choose(sequences[:2], lambda _: 9, 2) == {}
    penalised = sequence_of(period * 2)
    penalised.params = SamplingParams(repetition_penalty=1.1)
    assert speculation.choose([penalised], lambda _: 9, 512) == {}
