"""What is timed against llama.cpp, and how both sides take turns at it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from harness.json_lines import Worker
from harness.machine import read_bandwidth
from harness.other_work import OtherWork
from harness.sides import OURS, THEIRS, NotComparableError
from pascaline.report.run_record import Phase

QUIET = 0.05
"""Most of the machine's time that others may take of a round, before it is run again."""
MOST_ATTEMPTS = 3
"""Times the rounds asked for."""


@dataclass(frozen=True)
class Measurement:
    """One figure: so many sequences, each with a prompt, decoded for `count` tokens or not at all.

    With `fresh` every round has token ids of its own; without, the first prompts stay, so that a long
    context is computed once and remembered by both sides.
    """

    name: str
    phase: Phase
    prompt_tokens: int
    count: int
    context: int
    sequences: int = 1
    slots: int = 1
    fresh: bool = True

    @property
    def tokens(self) -> int:
        """That a round's time is divided by."""
        return self.prompt_tokens if self.phase == "prefill" else self.sequences * self.count

    @property
    def mean_context(self) -> float:
        """Tokens whose keys and values a sequence reads in a decode step, on average."""
        return self.prompt_tokens + (self.count + 1) / 2

    def ask(self, side: Worker, prompts: list[list[int]]) -> float:
        """Seconds that one side takes."""
        if self.phase == "prefill":
            answer = side.ask("prefill", token_ids=prompts[0])
        else:
            answer = side.ask("decode", prompts=prompts, count=self.count)
        if answer["computed"] != self.tokens:
            raise NotComparableError(
                f"{side.module} computed {answer['computed']} tokens for {self.name}, not {self.tokens}"
            )
        seconds: float = answer["seconds"]
        return seconds


MEASUREMENTS = (
    Measurement("prefill-512", "prefill", prompt_tokens=512, count=0, context=1024),
    Measurement("decode", "decode", prompt_tokens=16, count=64, context=1024),
    Measurement("decode-1-of-16", "decode", prompt_tokens=16, count=32, context=256, slots=16),
    Measurement("decode-16", "decode", prompt_tokens=16, count=32, context=256, sequences=16, slots=16),
    Measurement("decode-at-8k", "decode", prompt_tokens=8128, count=32, context=8192, fresh=False),
)


@dataclass(frozen=True)
class Round:
    """Both sides' seconds for one measurement, and what others took of the machine meanwhile.

    `bandwidth` is the memory's right after, in bytes a second read.
    """

    seconds: Mapping[str, float]
    other_work: float
    bandwidth: float


@dataclass(frozen=True)
class Outcome:
    """The rounds of one measurement that count, in the order of running."""

    measurement: Measurement
    rounds: list[Round]
    attempts: int

    def rates(self, side: str) -> list[float]:
        return [self.measurement.tokens / each.seconds[side] for each in self.rounds]

    def rate(self, side: str) -> float:
        return statistics.median(self.rates(side))

    @property
    def ratios(self) -> list[float]:
        return [ours / theirs for ours, theirs in zip(self.rates(OURS), self.rates(THEIRS), strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def bandwidth_share(self, step_bytes: int) -> float:
        """That our side reaches where a step reads so many bytes: median of the rounds."""
        shares = [
            step_bytes * rate / self.measurement.sequences / each.bandwidth
            for rate, each in zip(self.rates(OURS), self.rounds, strict=True)
        ]
        return statistics.median(shares)

    @property
    def bandwidths(self) -> list[float]:
        return [each.bandwidth for each in self.rounds]

    @property
    def other_work(self) -> float:
        """The largest share of any round that counts."""
        return max(each.other_work for each in self.rounds)


def take_turns(
    together: list[Measurement],
    sides: Mapping[str, Worker],
    rounds: int,
    vocab_size: int,
    numbers: random.Random,
    threads: int,
) -> list[Outcome]:
    """Warm up, then alternate until each measurement has `rounds` quiet rounds, or enough was tried.

    Of the rounds that were run, those with the least other work on the machine count; their times
    play no part in the choice.
    """
    kept = {item.name: _prompts(item, vocab_size, numbers) for item in together}
    done: dict[str, list[Round]] = {item.name: [] for item in together}
    for attempt in range(1 + rounds * MOST_ATTEMPTS):
        for item in together:
            past = done[item.name]
            if sum(each.other_work <= QUIET for each in past) >= rounds:
                continue
            prompts = _prompts(item, vocab_size, numbers) if item.fresh else kept[item.name]
            result = _round(item, sides, prompts, threads, ours_first=attempt % 2 == 0)
            if attempt:
                past.append(result)
    return [_outcome(item, done[item.name], rounds) for item in together]


def _prompts(item: Measurement, vocab_size: int, numbers: random.Random) -> list[list[int]]:
    return [[numbers.randrange(vocab_size) for _ in range(item.prompt_tokens)] for _ in range(item.sequences)]


def _round(
    item: Measurement,
    sides: Mapping[str, Worker],
    prompts: list[list[int]],
    threads: int,
    *,
    ours_first: bool,
) -> Round:
    others = OtherWork(*(side.pid for side in sides.values()))
    names = (OURS, THEIRS) if ours_first else (THEIRS, OURS)
    seconds = {name: item.ask(sides[name], prompts) for name in names}
    return Round(seconds, others.share(), read_bandwidth(threads))


def _outcome(item: Measurement, rounds: list[Round], wanted: int) -> Outcome:
    by_quiet = sorted(range(len(rounds)), key=lambda index: rounds[index].other_work)
    return Outcome(item, [rounds[index] for index in sorted(by_quiet[:wanted])], len(rounds))
