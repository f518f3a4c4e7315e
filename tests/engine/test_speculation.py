"""Tokens that are computed ahead change nothing but how many come of a step."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from test_steps_ahead import LateCard

from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig, Speculation
from pascaline.engine.messages import Abort, Submit, TokenOutput
from pascaline.engine.sampler import Sampled, Samples
from pascaline.engine.sampling_params import SamplingParams
from pascaline.engine.sequence import Sequence
from pascaline.llm.offline import LLM

Outputs = dict[tuple[int, int], list[TokenOutput]]


def _core(path: Path, speculation: Speculation, pages: int, *, is_late: bool = False) -> EngineCore:
    core = EngineCore(
        EngineConfig(
            str(path),
            device="cpu",
            max_model_len=160,
            max_batch_tokens=48,
            max_sequences=6,
            pages=pages,
            speculation=speculation,
        )
    )
    if is_late:
        core._runner = core._sampler = LateCard(core._runner)
    return core


def _requests(count: int) -> list[Submit]:
    """Texts of a period, texts of parts that come again in another order, and texts of neither."""
    shuffle = random.Random(11)
    params = [
        SamplingParams(temperature=0.0, max_tokens=50, ignore_eos=True),
        SamplingParams(temperature=0.7, seed=3, max_tokens=40, n=2, top_p=0.9),
        SamplingParams(temperature=0.0, max_tokens=20, repetition_penalty=1.3),
        SamplingParams(temperature=0.0, logprobs=2),
        SamplingParams(temperature=0.3, seed=9, max_tokens=30, logprobs=1, logit_bias={100: 2.0}),
        SamplingParams(temperature=0.0, max_tokens=25, prompt_logprobs=1, ignore_eos=True),
        SamplingParams(temperature=0.0, stop_token_ids=(105, 205), max_tokens=60),
    ]
    requests = []
    for number in range(count):
        part = [shuffle.randrange(100, 40000) for _ in range(shuffle.randrange(1, 20))]
        others = [shuffle.randrange(100, 40000) for _ in range(shuffle.randrange(1, 10))]
        prompt = [part * 3, part + others + part + others[:2], part + others][shuffle.randrange(3)]
        requests.append(Submit(number, prompt[:90], params[number % len(params)]))
    return requests


def _run(core: EngineCore, requests: list[Submit], arrivals: random.Random, cancelled: float) -> Outputs:
    found: Outputs = {}
    waiting = list(requests)
    while waiting or core.has_work:
        while waiting and (not core.has_work or arrivals.random() < 0.08):
            core.submit(waiting.pop(0))
        if arrivals.random() < cancelled:
            core.abort(Abort(arrivals.randrange(len(requests) - len(waiting))))
        outputs = core.step()
        assert not outputs.failed
        for token in outputs.tokens:
            found.setdefault((token.request_id, token.index), []).append(token)
        status = outputs.status
        assert 0 <= status.accepted_tokens <= status.drafted_tokens
        for sequence in core.scheduler.running:
            assert len(sequence.pages) * 16 >= sequence.computed
            # What was accepted has been computed; only what was preempted is computed again.
            if sequence.prompt_computed and not status.preemptions:
                assert sequence.uncomputed == 1
    pool = core.scheduler.pool
    assert pool.free + core.scheduler.prefixes.pages == pool.total
    return found


@pytest.fixture(scope="module")
def requests() -> list[Submit]:
    return _requests(14)


@pytest.fixture(scope="module")
def expected(demo_path: Path, requests: list[Submit]) -> Outputs:
    return _run(_core(demo_path, "off", 200), requests, random.Random(0), 0.0)


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("pages", [200, 18])
def test_the_same_outputs(
    demo_path: Path, requests: list[Submit], expected: Outputs, pages: int, is_late: bool
) -> None:
    core = _core(demo_path, "auto", pages, is_late=is_late)
    card = core._runner
    assert _run(core, requests, random.Random(pages), 0.0) == expected
    status = core.status()
    assert status.accepted_tokens > 30
    assert status.drafted_tokens > status.accepted_tokens
    assert (status.preemptions > 0) == (pages == 18)
    if isinstance(card, LateCard):
        assert card.taken_beside_drafts > 0


@pytest.mark.parametrize("is_late", [False, True])
def test_what_is_cancelled_is_the_beginning_of_it(
    demo_path: Path, requests: list[Submit], expected: Outputs, is_late: bool
) -> None:
    core = _core(demo_path, "auto", 40, is_late=is_late)
    found = _run(core, requests, random.Random(4), 0.05)
    assert core.status().accepted_tokens > 20
    assert sum(len(tokens) for tokens in found.values()) < sum(len(tokens) for tokens in expected.values())
    for key, tokens in found.items():
        assert tokens == expected[key][: len(tokens)]


class Scripted:
    """Chooses what it is told to: a list of tokens a step, one a row."""

    def __init__(self, *steps: list[Sampled]) -> None:
        self._steps = list(steps)

    def launch(
        self, logits: torch.Tensor, sequences: list[Sequence], ahead: list[int] | None = None
    ) -> Samples:
        chosen = self._steps.pop(0)
        assert ahead == list(range(len(chosen)))
        return _Chosen(chosen)


@dataclass(frozen=True)
class _Chosen:
    sampled: list[Sampled]

    def read(self) -> list[Sampled]:
        return self.sampled


def test_behind_a_token_that_was_not_drafted_nothing_counts(demo_path: Path) -> None:
    core = _core(demo_path, "auto", 40)
    period = [1000, 1001, 1002, 1003, 1004]
    # The second step's draft is 1001, 1002, …: 1002 at its place does not make up for 1001.
    rest = [Sampled(7, is_finite=False)] * 7
    core._sampler = Scripted([Sampled(1000)], [Sampled(1002), *rest], [Sampled(5)])
    core.submit(Submit(1, period * 3, SamplingParams(temperature=0.0, stop_token_ids=(5,))))
    found = []
    while core.has_work:
        outputs = core.step()
        assert not outputs.failed
        found += [token.token_id for token in outputs.tokens]
    assert found == [1000, 1002, 5]
    assert core.status().accepted_tokens == 0


def test_text_that_repeats_takes_fewer_steps(demo_path: Path) -> None:
    prompt = list(range(1000, 1020)) * 4
    params = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)
    steps = {}
    for speculation in ("off", "auto"):
        core = _core(demo_path, speculation, 40)  # type: ignore[arg-type]
        _run(core, [Submit(1, prompt, params)], random.Random(0), 0.0)
        steps[speculation] = core.status().steps
    assert steps["auto"] < steps["off"] / 2


def test_a_card_does_not_wait_where_nothing_is_drafted(demo_path: Path) -> None:
    shuffle = random.Random(7)
    requests = [
        Submit(
            number,
            [shuffle.randrange(100, 40000) for _ in range(30)],
            SamplingParams(temperature=3.0, seed=number, max_tokens=30, ignore_eos=True),
        )
        for number in range(3)
    ]
    taken = []
    for speculation in ("off", "auto"):
        core = _core(demo_path, speculation, 60, is_late=True)  # type: ignore[arg-type]
        _run(core, requests, random.Random(0), 0.0)
        assert core.status().drafted_tokens == 0
        assert isinstance(core._runner, LateCard)
        taken.append(core._runner.taken)
    assert taken[0] == taken[1] > 60


def test_limits_and_stop_strings_within_a_draft(demo_path: Path) -> None:
    results = {}
    prompt = "one two three four five six seven one two three four five six seven one two three four"
    for speculation in ("off", "auto"):
        llm = LLM(
            str(demo_path),
            device="cpu",
            max_model_len=64,
            max_sequences=1,
            speculation=speculation,  # type: ignore[arg-type]
        )
        greedy = SamplingParams(temperature=0.0, ignore_eos=True)
        settings = [replace(greedy, max_tokens=most) for most in range(1, 14)]
        settings += [greedy, replace(greedy, stop=("seven",)), replace(greedy, stop=("two three four f",))]
        results[speculation] = [
            (item.completions[0].text, item.completions[0].token_ids, item.completions[0].finish_reason)
            for item in llm.generate([prompt] * len(settings), settings)
        ]
        accepted = llm.core.status().accepted_tokens
        assert (accepted > 20) == (speculation == "auto")
    assert results["auto"] == results["off"]
