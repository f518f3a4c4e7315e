"""Steps that memory does not suffice for: the engine goes on, and at worst one request ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pascaline.engine.core import EngineCore
from pascaline.engine.messages import StepOutputs, Submit
from pascaline.engine.sampling_params import SamplingParams
from pascaline.kv.step_batch import StepBatch
from pascaline.llm.offline import LLM

PARAMS = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
PROMPT = list(range(1000, 1100))


class Short:
    """A runner for whose steps memory suffices up to so many tokens, or not so many times."""

    computes_by_itself = False

    def __init__(self, core: EngineCore) -> None:
        self._runner = core._runner
        self.most_tokens = 1 << 30
        self.failures = 0
        self.seen: list[int] = []

    def run(self, batch: StepBatch) -> torch.Tensor:
        tokens = len(batch.token_ids)
        self.seen.append(tokens)
        if tokens > self.most_tokens or self.failures:
            self.failures = max(0, self.failures - 1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._runner.run(batch)


@pytest.fixture
def core(cramped_llm: LLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineCore]:
    """16 pages, 64 tokens a step; idle before and after, with its pages and the steps that it had."""
    core = cramped_llm.core
    core.scheduler.prefixes.evict(core.scheduler.pool.total, 0)
    monkeypatch.setattr(core, "_runner", Short(core))
    monkeypatch.setattr(core.scheduler, "max_batch_tokens", 64)
    yield core
    assert not core.has_work
    status = core.status()
    assert status.pages_free + status.pages_cached == status.pages_total


def short(core: EngineCore) -> Short:
    assert isinstance(core._runner, Short)
    return core._runner


def run(core: EngineCore) -> list[StepOutputs]:
    steps = []
    while core.has_work:
        steps.append(core.step())
        assert len(steps) < 100
    return steps


def tokens_of(steps: list[StepOutputs], request_id: int) -> list[int]:
    return [token.token_id for step in steps for token in step.tokens if token.request_id == request_id]


def answer_then_forget(core: EngineCore) -> list[int]:
    """The tokens of PROMPT where memory suffices; afterwards neither pages nor steps are remembered."""
    core.submit(Submit(1, PROMPT, PARAMS))
    tokens = tokens_of(run(core), 1)
    core.scheduler.prefixes.evict(core.scheduler.pool.total, 0)
    short(core).seen.clear()
    return tokens


def test_a_step_is_tried_again_when_memory_was_given_back(
    core: EngineCore, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = answer_then_forget(core)
    short(core).failures = 1
    core.submit(Submit(2, PROMPT, PARAMS))
    assert tokens_of(run(core), 2) == expected
    assert short(core).seen == [64, 64, 36, 1, 1]
    assert core.scheduler.max_batch_tokens == 64
    assert capfd.readouterr().err == ""


def test_steps_become_smaller_where_they_do_not_fit(
    core: EngineCore, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = answer_then_forget(core)
    short(core).most_tokens = 20
    core.submit(Submit(2, PROMPT, PARAMS))
    steps = run(core)
    assert tokens_of(steps, 2) == expected
    assert not any(step.failed for step in steps)
    assert short(core).seen == [64, 64, 32, 32, *[16] * 6, 4, 1, 1]
    assert "from now on they have at most 16" in capfd.readouterr().err


def test_one_request_ends_where_no_smaller_step_is_possible(core: EngineCore) -> None:
    for request_id in (1, 2, 3):
        core.submit(Submit(request_id, PROMPT[: 10 * request_id], PARAMS))
    first = core.step()
    assert {token.request_id for token in first.tokens} == {1, 2, 3}
    short(core).most_tokens = 2
    steps = run(core)
    [failed] = [failed for step in steps for failed in step.failed]
    assert "memory does not suffice for a step of 3 tokens" in failed.failure.seen
    assert failed.failure.kind == "EngineError"
    others = {1, 2, 3} - {failed.request_id}
    assert {request_id: len(tokens_of(steps, request_id)) for request_id in others} == dict.fromkeys(
        others, 2
    )
