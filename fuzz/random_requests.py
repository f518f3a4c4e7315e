"""Random requests under random cancellation: every answer is what it may be, and no page is lost.

    python fuzz/random_requests.py [--model demo] [--device auto] [--requests 10000] [--seed 0] [--pages 48]

Lengths, shared prefixes, sampling, penalties, log-probabilities, n and limits are drawn, some requests cannot
run, and arrivals and cancellations come between steps. After every step each page's references are counted.
Some of the requests that came to their end are computed again, alone: on the CPU their tokens have to be the
same; on a card, where rounding depends on what is beside a row, those that are not are counted.

Prints one line; exit code 1 if anything was not as it has to be, and a traceback at the first.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from pascaline.checkpoint.reference import resolve
from pascaline.cli.ending import run
from pascaline.core.progress import ignore_progress
from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Abort, StepOutputs, Submit, TokenOutput
from pascaline.engine.sampling_params import SamplingParams

CONTEXT, STEP_TOKENS, SEQUENCES = 160, 48, 12
CANCELLED = 0.1
"""Between two steps."""
REPEATED = 0.01
"""Of the requests that came to their end."""
MOST_LIVE = (1, 3, 20, 20)
CHANGED = 0.01
"""How many requests are under way at most; another after some hundred steps."""


@dataclass
class Answer:
    """What has come of a request; `open` are its continuations that have not ended."""

    request: Submit
    open: set[int]
    tokens: dict[int, list[int]] = field(default_factory=dict)
    is_cancelled: bool = False


class Requests:
    """Drawn requests."""

    def __init__(self, random: Random, vocabulary: int) -> None:
        self._random, self._vocabulary = random, vocabulary
        self._texts = [self._tokens(CONTEXT) for _ in range(4)]

    def draw(self, request_id: int) -> tuple[Submit, bool]:
        """A request, and whether it can run."""
        random = self._random
        prompt = random.choice(self._texts)[: random.randrange(100)] + self._tokens(random.randrange(1, 20))
        if random.random() < 0.3:  # a text that repeats itself
            prompt = (prompt[-random.randrange(1, 12) :] * CONTEXT)[: len(prompt)]
        kind = random.randrange(100)
        if kind == 0:
            return Submit(request_id, [], self._params()), False
        if kind == 1:
            return Submit(request_id, self._tokens(CONTEXT), self._params()), False
        if kind == 2:
            return Submit(request_id, [*prompt, self._vocabulary], self._params()), False
        return Submit(request_id, prompt, self._params()), True

    def _tokens(self, count: int) -> list[int]:
        return [self._random.randrange(self._vocabulary) for _ in range(count)]

    def _params(self) -> SamplingParams:
        random = self._random

        def now_and_then(value: float, other: float) -> float:
            return value if random.random() < 0.15 else other

        return SamplingParams(
            n=random.choice((1, 1, 1, 2, 3)),
            max_tokens=random.choice((1, 2, 5, 5, 10, 10, 20, 40, None)),
            temperature=random.choice((0.0, 0.0, 0.5, 1.0, 3.0)),
            top_k=random.choice((0, 0, 0, 1, 20)),
            top_p=now_and_then(0.8, 1.0),
            min_p=now_and_then(0.1, 0.0),
            repetition_penalty=now_and_then(1.2, 1.0),
            presence_penalty=now_and_then(0.5, 0.0),
            frequency_penalty=now_and_then(0.3, 0.0),
            logit_bias={random.randrange(self._vocabulary): 3.0} if random.random() < 0.1 else {},
            seed=random.randrange(1 << 40),
            stop_token_ids=tuple(self._tokens(random.choice((0, 0, 3)))),
            ignore_eos=random.random() < 0.5,
            logprobs=random.choice((None, None, None, 0, 3)),
            prompt_logprobs=1 if random.random() < 0.05 else None,
        )


class Run:
    """An engine, the requests that it was given, and what it has to keep."""

    def __init__(self, core: EngineCore, random: Random) -> None:
        self._core, self._random = core, random
        self._eos = set(core.ready.eos_token_ids)
        self._requests = Requests(random, core.ready.vocab_size)
        self._live: dict[int, Answer] = {}
        self._refused: set[int] = set()
        self._to_repeat: list[Answer] = []
        self.counts: Counter[str] = Counter()

    def all(self, count: int) -> None:
        """So many requests, to the end of the last."""
        random, submitted, most_live = self._random, 0, 1
        while submitted < count or self._core.has_work:
            if random.random() < CHANGED:
                most_live = random.choice(MOST_LIVE)
            while submitted < count and len(self._live) < most_live and random.random() < 0.6:
                request, can_run = self._requests.draw(submitted)
                self._submit(request, can_run=can_run)
                submitted += 1
            if self._live and random.random() < CANCELLED:
                self._cancel(random.choice([*self._live]))
            self._step()
        assert not self._live, "requests without an end"
        assert not self._refused, "requests that could not run and were not refused"
        status = self._core.status()
        assert status.pages_free + status.pages_cached == status.pages_total

    def again(self) -> None:
        """Some of the requests, each alone."""
        for answer in self._to_repeat:
            repeated = Answer(answer.request, set(range(answer.request.params.n)))
            self._live[answer.request.request_id] = repeated
            self._core.submit(answer.request)
            while self._core.has_work:
                self._step()
            self.counts["answered"] -= 1
            self.counts["repeated"] += 1
            self.counts["differ"] += repeated.tokens != answer.tokens

    def _submit(self, request: Submit, *, can_run: bool) -> None:
        self._core.submit(request)
        if can_run:
            self._live[request.request_id] = Answer(request, set(range(request.params.n)))
        else:
            self._refused.add(request.request_id)

    def _cancel(self, request_id: int) -> None:
        answer = self._live[request_id]
        answer.is_cancelled = True
        index = self._random.choice((None, *range(answer.request.params.n)))
        self._core.abort(Abort(request_id, index))
        answer.open -= set(range(answer.request.params.n)) if index is None else {index}
        self._end(answer)

    def _step(self) -> None:
        outputs: StepOutputs = self._core.step()
        self.counts["steps"] += 1
        for failed in outputs.failed:
            self._refused.remove(failed.request_id)
            self.counts["refused"] += 1
        for token in outputs.tokens:
            self._take(token)
        self._check_pages()

    def _take(self, token: TokenOutput) -> None:
        answer = self._live[token.request_id]
        assert token.index in answer.open, "a token of what has ended"
        params = answer.request.params
        tokens = answer.tokens.setdefault(token.index, [])
        tokens.append(token.token_id)
        self.counts["tokens"] += 1
        assert 0 <= token.token_id < self._core.ready.vocab_size
        assert (token.logprob is not None) == (params.logprobs is not None)
        ends = token.token_id in params.stop_token_ids
        ends |= token.token_id in self._eos and not params.ignore_eos
        is_full = len(tokens) == params.max_tokens
        is_full |= len(answer.request.prompt_token_ids) + len(tokens) == self._core.ready.max_model_len
        assert token.finish_reason == ("stop" if ends else "length" if is_full else None)
        if token.finish_reason is not None:
            answer.open.remove(token.index)
            self._end(answer)

    def _end(self, answer: Answer) -> None:
        if answer.open:
            return
        del self._live[answer.request.request_id]
        self.counts["cancelled" if answer.is_cancelled else "answered"] += 1
        if not answer.is_cancelled and self._random.random() < REPEATED:
            self._to_repeat.append(answer)

    def _check_pages(self) -> None:
        """A page has a reference of each sequence that holds it and one of the tree; all others are free."""
        scheduler = self._core.scheduler
        held = Counter(page for sequence in scheduler.running for page in sequence.pages)
        remembered = [node.page for node in scheduler.prefixes._nodes()]
        assert len(remembered) == scheduler.prefixes.pages
        held.update(remembered)
        assert not any(sequence.pages for sequence in scheduler.waiting)
        assert scheduler.pool.free + len(held) == scheduler.pool.total
        assert all(scheduler.pool.references(page) == held[page] for page in range(scheduler.pool.total))


def main() -> int:
    """Run, and print what it was."""
    given = _arguments()
    config = EngineConfig(
        str(resolve(given.model, ignore_progress).path),
        device=given.device,
        max_model_len=CONTEXT,
        max_batch_tokens=STEP_TOKENS,
        max_sequences=SEQUENCES,
        pages=given.pages,
    )
    core = EngineCore(config)
    random = Random(given.seed)
    began = time.monotonic()
    whole = Run(core, random)
    whole.all(given.requests)
    whole.again()
    counts, status = whole.counts, core.status()
    print(
        f"{given.requests} requests on {core.ready.device}: {counts['answered']} answered, "
        f"{counts['cancelled']} cancelled, {counts['refused']} refused; {counts['tokens']} tokens in "
        f"{counts['steps']} steps, {status.preemptions} preemptions, {status.accepted_tokens} of "
        f"{status.drafted_tokens} drafted tokens accepted, pages conserved in each step; of "
        f"{counts['repeated']} repeated alone {counts['differ']} differ; {time.monotonic() - began:.0f} s"
    )
    return int(core.ready.device == "cpu" and counts["differ"] > 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="as for pascaline generate")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pages", type=int, default=48, help="of 16 tokens: few make for preemptions")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
