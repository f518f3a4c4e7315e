"""Whether tokens that may follow are computed ahead, and how many: where that gives more tokens a second.

A step is bound by reading the weights, so rows that check a draft cost less than steps of their own. What a
draft gives is known from how often a sequence's drafts of late have come true, whether they were computed or
not: each is compared with what came. What it costs is known from the times of such steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from weakref import WeakKeyDictionary

from pascaline.engine.look_up import LookUp
from pascaline.engine.sequence import Sequence

COUNTS = (7, 3, 1)
"""Tokens that drafts have: few choices, so that each one's time is soon known."""

MOST_SEQUENCES = 4
"""With more that decode at once, rows are no longer almost free."""

FIRST_ACCEPTANCE = 0.5
"""Of a sequence of which nothing is known: enough for a try or two."""

LATEST_WEIGHT = 0.3
"""Of the latest guess in the share of a sequence's guesses that come true."""

UNMEASURED_COST = 1.3
"""Of a step with drafts, in steps without."""

LEAST_ACCEPTANCE = 0.2
"""Of a sequence that drafts are computed of, whatever those beside it gain."""

LEAST_GAIN = 1.1
"""Tokens a second, over those without drafts: less is not worth the uncertainty."""

_FEWEST_TIMES, _MOST_TIMES = 3, 9
_FORGOTTEN_AFTER = 4096
"""Steps after which the time of steps that were too slow is measured anew."""

Drafts = dict[Sequence, list[int]]


@dataclass
class _State:
    """Of a sequence: `guess` is what was to follow its first `length` tokens."""

    look_up: LookUp = field(default_factory=LookUp)
    acceptance: float = FIRST_ACCEPTANCE
    length: int = 0
    guess: list[int] = field(default_factory=list)

    def guess_next(self, tokens: list[int]) -> list[int]:
        """What may follow, a token more than drafts have; first the last guess is compared with what came."""
        if len(tokens) > self.length:
            for guessed, came in zip(self.guess, tokens[self.length :], strict=False):
                self.acceptance += LATEST_WEIGHT * (float(guessed == came) - self.acceptance)
                if guessed != came:
                    break
            self.length = len(tokens)
            self.guess = self.look_up.draft(tokens, max(COUNTS) + 1)
        return self.guess

    def expected(self, count: int, pending: int) -> float:
        """Tokens of a draft of `count` that come true: each only behind those before, pending ones too."""
        return sum(self.acceptance ** (pending + index) for index in range(1, count + 1))


class StepTimes:
    """Of steps in which sequences decode: medians of the latest, by how many sequences and rows they have."""

    def __init__(self) -> None:
        self._times: dict[tuple[int, int], deque[float]] = {}
        self._last: dict[tuple[int, int], int] = {}
        self._steps = 0

    def add(self, sequences: int, rows: int, seconds: float) -> None:
        """A step's time."""
        key = _key(sequences, rows)
        self._steps += 1
        self._last[key] = self._steps
        self._times.setdefault(key, deque(maxlen=_MOST_TIMES)).append(seconds)

    def cost(self, sequences: int, rows: int) -> float:
        """Of a step of so many rows, in steps of one row a sequence."""
        if rows == sequences:
            return 1.0
        key = _key(sequences, rows)
        if self._steps - self._last.get(key, self._steps) > _FORGOTTEN_AFTER:
            del self._times[key], self._last[key]
        times, plain = self._times.get(key, ()), self._times.get(_key(sequences, sequences), ())
        if min(len(times), len(plain)) < _FEWEST_TIMES:
            return UNMEASURED_COST
        return median(times) / median(plain)


def _key(sequences: int, rows: int) -> tuple[int, int]:
    """Steps of so alike numbers of rows are taken together: 2, 3–4, 5–8, … more than sequences."""
    return sequences, (rows - sequences).bit_length()


class Speculation:
    """Chooses drafts for the sequences of an engine.

    Parameters
    ----------
    most_rows : that are sampled from in a step.
    """

    def __init__(self, most_rows: int) -> None:
        self.times = StepTimes()
        self._most_rows = most_rows
        self._states: WeakKeyDictionary[Sequence, _State] = WeakKeyDictionary()

    def choose(
        self, sequences: list[Sequence], most_of: Callable[[Sequence], int], most_tokens: int
    ) -> Drafts:
        """Drafts for some of the sequences, all of which decode; by the tokens of them that are known.

        Of a sequence with a pending token (at most one) they may follow that, if it is as guessed.

        Parameters
        ----------
        most_of : tokens that a sequence's draft may have.
        most_tokens : of the step.
        """
        if len(sequences) > MOST_SEQUENCES:
            return {}
        guesses = {
            sequence: (state, state.guess_next(sequence.tokens)[sequence.pending :][: most_of(sequence)])
            for sequence in sequences
            if not sequence.is_penalised
            for state in [self._states.setdefault(sequence, _State())]
        }
        most_rows = min(self._most_rows, most_tokens)
        best: Drafts = {}
        most = LEAST_GAIN
        for count in COUNTS:
            gained = 0.0
            rows = len(sequences)
            drafts: Drafts = {}
            for sequence, (state, guess) in guesses.items():
                draft = guess[: min(count, max(0, most_rows - rows))]
                if draft and state.acceptance >= LEAST_ACCEPTANCE:
                    drafts[sequence] = draft
                    gained += state.expected(len(draft), sequence.pending)
                    rows += len(draft)
            gain = (1.0 + gained / len(sequences)) / self.times.cost(len(sequences), rows)
            if gain > most:
                best, most = drafts, gain
        return best
