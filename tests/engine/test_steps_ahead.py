"""Steps that are launched before the results of those before them are known give what others give."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig, Speculation
from pascaline.engine.messages import Abort, Submit, TokenOutput
from pascaline.engine.runner import Runner
from pascaline.engine.sampler import Sampled, Samples, sample
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.kv.step_batch import StepBatch


class LateCard:
    """As a card: its host learns what a step chose when it asks, and the next step takes it from the card."""

    computes_by_itself = True

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._chosen: list[int] = []
        self.taken = self.taken_beside_drafts = 0
        self.unread = 0

    def run(self, batch: StepBatch) -> torch.Tensor:
        ids = [self._chosen[-1 - token] if token < 0 else token for token in batch.token_ids.tolist()]
        taken = int((batch.token_ids < 0).sum())
        self.taken += taken
        self.taken_beside_drafts += taken * (len(batch.logit_rows) > len(batch.context_lengths))
        return self._runner.run(replace(batch, token_ids=torch.tensor(ids))).clone()

    def launch(
        self, logits: torch.Tensor, sequences: list[Sequence], ahead: list[int] | None = None
    ) -> Samples:
        chosen = sample(logits, sequences, ahead) if sequences else []
        self._chosen = [each.token_id for each in chosen]
        self.unread += 1
        assert self.unread <= 2

        def read() -> list[Sampled]:
            self.unread -= 1
            return chosen

        return _Late(read)


@dataclass(frozen=True)
class _Late:
    read: Callable[[], list[Sampled]]


def _core(
    path: Path, *, is_late: bool, pages: int, speculation: Speculation = "off"
) -> tuple[EngineCore, LateCard]:
    core = EngineCore(
        EngineConfig(
            str(path),
            device="cpu",
            max_model_len=200,
            max_batch_tokens=48,
            max_sequences=6,
            pages=pages,
            speculation=speculation,
        )
    )
    card = LateCard(core._runner)
    if is_late:
        core._runner = core._sampler = card
    return core, card


def _requests(count: int) -> list[Submit]:
    shuffle = random.Random(5)
    params = [
        SamplingParams(temperature=0.0, max_tokens=9, ignore_eos=True),
        SamplingParams(temperature=0.9, seed=3, max_tokens=14, n=2),
        SamplingParams(temperature=0.0, max_tokens=12, repetition_penalty=1.3),
        SamplingParams(temperature=0.0, max_tokens=40),
        SamplingParams(temperature=0.0, max_tokens=1),
        SamplingParams(temperature=0.0, max_tokens=5, prompt_logprobs=1, logprobs=2),
    ]
    return [
        Submit(
            number,
            [shuffle.randrange(100, 40000) for _ in range(shuffle.randrange(1, 90))],
            params[number % len(params)],
        )
        for number in range(count)
    ]


def _run(
    core: EngineCore, requests: list[Submit], arrivals: random.Random
) -> dict[tuple[int, int], list[TokenOutput]]:
    found: dict[tuple[int, int], list[TokenOutput]] = {}
    waiting = list(requests)
    while waiting or core.has_work:
        while waiting and (not core.has_work or arrivals.random() < 0.3):
            core.submit(waiting.pop(0))
        outputs = core.step()
        assert not outputs.failed
        for token in outputs.tokens:
            found.setdefault((token.request_id, token.index), []).append(token)
    return found


@pytest.mark.parametrize("pages", [200, 24])
def test_the_same_tokens(demo_path: Path, pages: int) -> None:
    requests = _requests(14)
    expected = _run(_core(demo_path, is_late=False, pages=pages)[0], requests, random.Random(0))
    core, card = _core(demo_path, is_late=True, pages=pages)
    assert _run(core, requests, random.Random(1)) == expected
    assert card.taken > 50
    assert card.unread == 0
    pool = core.scheduler.pool
    assert pool.free + core.scheduler.prefixes.pages == pool.total


class ShortCard(LateCard):
    """Of whose steps some do not fit into memory, after they have overwritten what the step before chose."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self._failures = random.Random(3)
        self._has_failed = False
        self.failed_ahead = 0

    def launch(
        self, logits: torch.Tensor, sequences: list[Sequence], ahead: list[int] | None = None
    ) -> Samples:
        # Never twice: steps would become smaller, and requests end.
        self._has_failed = not self._has_failed and self._failures.random() < 0.3
        if self._has_failed:
            self.failed_ahead += self.unread
            self._chosen = [5] * len(sequences)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().launch(logits, sequences, ahead)


@pytest.mark.parametrize("speculation", ["off", "auto"])
def test_the_same_tokens_where_memory_runs_short(demo_path: Path, speculation: Speculation) -> None:
    params = SamplingParams(max_tokens=50, ignore_eos=True)
    prompts = [[1000, 1001, 1002] * 5, [2000, 7, 2001], [3000] * 9]
    requests = [
        Submit(number, prompt, replace(params, temperature=number / 3, seed=number))
        for number, prompt in enumerate(prompts)
    ]
    expected = _run(_core(demo_path, is_late=False, pages=60)[0], requests, random.Random(0))
    core, _ = _core(demo_path, is_late=False, pages=60, speculation=speculation)
    card = ShortCard(core._runner)
    core._runner = core._sampler = card
    assert _run(core, requests, random.Random(1)) == expected
    assert card.failed_ahead > 0
    pool = core.scheduler.pool
    assert pool.free + core.scheduler.prefixes.pages == pool.total


def test_what_was_not_read_is_not_remembered(demo_path: Path) -> None:
    core, _ = _core(demo_path, is_late=True, pages=60)
    greedy = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True)
    core.submit(Submit(1, [1000] * 40, greedy))
    core.step()
    core.abort(Abort(1))
    assert core.scheduler.prefixes.pages == 0
    core.submit(Submit(2, [1000] * 31, greedy))
    core.step()
    core.step()
    [sequence] = core.scheduler.running
    assert (sequence.computed, sequence.settled) == (32, 31)
    core.abort(Abort(2))
    assert core.scheduler.prefixes.pages == 1
    while core.has_work:
        core.step()
    assert core.scheduler.pool.free == 59


def test_aborts_while_a_step_is_under_way(demo_path: Path) -> None:
    core, card = _core(demo_path, is_late=True, pages=60)
    shuffle = random.Random(2)
    greedy = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    alone: dict[int, list[int]] = {}
    for number in range(40):
        prompt = [1000 + number % 4] * 20
        core.submit(Submit(number, prompt, greedy))
        for _ in range(shuffle.randrange(6)):
            for token in core.step().tokens:
                alone.setdefault(token.request_id, []).append(token.token_id)
        if shuffle.random() < 0.7:
            core.abort(Abort(shuffle.randrange(number + 1)))
    while core.has_work:
        for token in core.step().tokens:
            alone.setdefault(token.request_id, []).append(token.token_id)
    assert card.unread == 0
    whole = {number % 4: tokens for number, tokens in alone.items() if len(tokens) == 30}
    assert len(whole) == 4
    for number, tokens in alone.items():
        assert tokens == whole[number % 4][: len(tokens)]
    pool = core.scheduler.pool
    assert pool.free + core.scheduler.prefixes.pages == pool.total
