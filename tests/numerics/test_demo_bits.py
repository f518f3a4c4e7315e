"""The demo model as it is served by default: however a request is run, its bits are the same.

Alone, among 64, in chunks, on remembered pages, after being preempted, on one thread or three, by any
instruction set: all log-probabilities are equal, not only close. How far they are from fp32 is bounded
by what rounding activations to 8 bits costs: measured against fp32 on the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from native_libraries import NEEDS_LIBRARY
from stepped_model import Part, SteppedModel
from test_demo_logits import PROMPT, Outcome, greedy_request, random_prompt, run

from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig
from pascaline.hardware.instruction_sets import runnable
from pascaline.kernels.cpu import native
from pascaline.llm.model_text import ModelText

pytestmark = NEEDS_LIBRARY

# Nats; a first version of other rounding had 0.0029, and one of 16-bit activations would have 1e-6.
MEDIAN_DIVERGENCE = 0.005


@pytest.fixture(scope="module")
def prompt(demo_path: Path) -> list[int]:
    return ModelText.load(demo_path).encode(PROMPT)


def core(demo_path: Path, **settings: int) -> EngineCore:
    return EngineCore(EngineConfig(str(demo_path), device="cpu", **settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alone(demo_path: Path, prompt: list[int]) -> Outcome:
    [outcome] = run(core(demo_path), [greedy_request(1, prompt, prompt_logprobs=True)])
    return outcome


def assert_same_bits(outcome: Outcome, alone: Outcome) -> None:
    assert [(token.token_id, token.logprob, token.top_logprobs) for token in outcome.tokens] == [
        (token.token_id, token.logprob, token.top_logprobs) for token in alone.tokens
    ]
    if outcome.prompt.logprobs is not None:
        assert outcome.prompt.logprobs == alone.prompt.logprobs


def test_on_remembered_pages_and_among_64(demo_path: Path, prompt: list[int], alone: Outcome) -> None:
    shared = core(demo_path)
    others = [greedy_request(index, random_prompt(3 + index % 11, index)) for index in range(63)]
    requests = [*others[:20], greedy_request(100, prompt, prompt_logprobs=True), *others[20:]]
    outcomes = run(shared, requests)
    assert outcomes[20].prompt.cached_tokens == 0
    assert_same_bits(outcomes[20], alone)
    [again] = run(shared, [greedy_request(101, prompt)])
    assert again.prompt.cached_tokens > len(prompt) // 2
    assert_same_bits(again, alone)


@pytest.mark.parametrize("max_batch_tokens", [16, 50])
def test_in_chunks(max_batch_tokens: int, demo_path: Path, prompt: list[int], alone: Outcome) -> None:
    chunked = core(demo_path, max_batch_tokens=max_batch_tokens, max_sequences=16)
    [outcome] = run(chunked, [greedy_request(1, prompt, prompt_logprobs=True)])
    assert_same_bits(outcome, alone)


def test_after_preemption(demo_path: Path, prompt: list[int], alone: Outcome) -> None:
    page = 16
    earlier = [greedy_request(index, random_prompt(7 * page - 3, index)) for index in range(2)]
    pages = 2 * 7 + -(-len(prompt) // page) + 1
    small = core(demo_path, pages=pages, max_sequences=16)
    outcomes = run(small, [*earlier, greedy_request(2, prompt)])
    assert [outcome.preempted for outcome in outcomes] == [False, False, True]
    assert_same_bits(outcomes[2], alone)


@pytest.fixture
def threads() -> Iterator[native.Library]:
    library = native.loaded()
    yield library
    library.use_threads(2)


def test_on_any_number_of_threads(
    demo_path: Path, prompt: list[int], alone: Outcome, threads: native.Library
) -> None:
    for count in (1, 3):
        threads.use_threads(count)
        [outcome] = run(core(demo_path), [greedy_request(1, prompt, prompt_logprobs=True)])
        assert_same_bits(outcome, alone)


def test_by_every_instruction_set(
    demo_path: Path, prompt: list[int], alone: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    for instructions in runnable():
        library = native.Library(instructions)
        monkeypatch.setattr(native, "library", lambda library=library: library)
        [outcome] = run(core(demo_path), [greedy_request(1, prompt, prompt_logprobs=True)])
        assert_same_bits(outcome, alone)


def test_what_eight_bits_cost(demo_path: Path, prompt: list[int]) -> None:
    logits = []
    for arithmetic in ("fp32", "auto"):
        stepped = SteppedModel(demo_path, pages=64, arithmetic=arithmetic)
        [rows] = stepped.step(Part(prompt, stepped.pages_for(len(prompt))))
        logits.append(rows.double().log_softmax(-1))
    exact, ours = logits
    divergence = (exact.exp() * (exact - ours)).sum(-1)
    assert 1e-6 < float(divergence.median()) < MEDIAN_DIVERGENCE
    sure = exact.topk(2).values.diff().abs()[:, 0] > 1
    assert torch.equal(exact.argmax(-1)[sure], ours.argmax(-1)[sure])
