"""`EngineCore`, message by message, with the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import CheckpointError
from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Abort, EngineStatus, Submit
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.offline import LLM

PARAMS = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)


@pytest.fixture
def core(cramped_llm: LLM) -> Iterator[EngineCore]:
    """16 pages, 64 tokens a step; idle before and after."""
    core = cramped_llm.core
    assert not core.has_work
    core.scheduler.prefixes.evict(core.scheduler.pool.total, 0)
    yield core
    assert not core.has_work
    status = core.status()
    assert status.pages_free + status.pages_cached == status.pages_total


def held(status: EngineStatus) -> int:
    return status.pages_total - status.pages_free - status.pages_cached


def test_continuations_share_the_pages_of_their_prompt(core: EngineCore) -> None:
    prompt = list(range(200, 240))
    core.submit(
        Submit(1, prompt, SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=2, ignore_eos=True))
    )
    first = core.step()
    assert [(token.request_id, token.index) for token in first.tokens] == [(1, 0)]
    # Two full pages of the prompt are remembered; the third, not full, is the first one's own.
    assert (held(first.status), first.status.pages_cached) == (1, 2)
    second = core.step()
    assert {token.index for token in second.tokens} == {0, 1, 2}
    assert [(item.index, item.cached_tokens) for item in first.prompts + second.prompts] == [
        (0, 0),
        (1, 32),
        (2, 32),
    ]
    third = core.step()
    assert {token.index: token.finish_reason for token in third.tokens} == {1: "length", 2: "length"}
    assert third.status.pages_cached == 2


def test_cancelling_during_the_prompt_frees_its_pages_at_once(core: EngineCore) -> None:
    core.submit(Submit(1, list(range(1000, 1150)), PARAMS))
    assert core.step().tokens == []
    assert core.status().running == 1
    core.abort(Abort(1))
    status = core.status()
    # What was computed, 64 tokens, is remembered; nothing is held.
    assert (status.running, status.waiting, held(status), status.pages_cached) == (0, 0, 0, 4)
    assert core.step().tokens == []


def test_cancelling_during_the_answer_frees_its_pages_at_once(core: EngineCore) -> None:
    core.submit(Submit(1, list(range(1000, 1040)), SamplingParams(n=2, seed=1, ignore_eos=True)))
    core.step()
    core.step()
    assert core.status().running == 2
    core.abort(Abort(1, index=0))
    assert core.status().running == 1
    assert {token.index for token in core.step().tokens} == {1}
    core.abort(Abort(1))
    assert held(core.status()) == 0
    assert not core.has_work


def test_aborting_what_is_not_there_is_fine(core: EngineCore) -> None:
    core.abort(Abort(77))
    core.abort(Abort(77, index=3))
    assert core.step().tokens == []


@pytest.mark.parametrize(
    ("prompt", "params", "reason"),
    [
        ([], PARAMS, "empty"),
        ([1] * 256, PARAMS, "256 tokens"),
        ([1, 49152], PARAMS, "vocabulary of 49152"),
        ([-1], PARAMS, "vocabulary"),
        ([1], SamplingParams(logit_bias={49152: 1.0}), "vocabulary"),
    ],
)
def test_what_cannot_run_is_rejected_once(
    core: EngineCore, prompt: list[int], params: SamplingParams, reason: str
) -> None:
    core.submit(Submit(5, prompt, params))
    assert core.has_work
    [failed] = core.step().failed
    assert failed.request_id == 5
    assert reason in failed.failure.seen
    assert core.step().failed == []


def test_an_id_in_use_is_rejected_and_its_owner_goes_on(core: EngineCore) -> None:
    core.submit(Submit(1, [5, 6, 7], PARAMS))
    core.submit(Submit(1, [8], PARAMS))
    step = core.step()
    assert [item.failure.seen for item in step.failed] == ["request id 1 is in use"]
    assert len(step.tokens) == 1
    tokens = [token for _ in range(2) for token in core.step().tokens]
    assert [token.finish_reason for token in tokens] == [None, "length"]


def test_scales_that_are_no_numbers_are_refused_at_the_start(demo_path: Path, tmp_path: Path) -> None:
    damaged = bytearray(demo_path.read_bytes())
    damaged[60_000_000:60_000_400] = b"\xff" * 400  # among the weights
    (tmp_path / "damaged.gguf").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"damaged\.gguf: the scales of 'blk\.\d+\..* not all finite"):
        EngineCore(EngineConfig(str(tmp_path / "damaged.gguf"), pages=64))


def test_logits_that_are_no_numbers_end_the_request(demo_path: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(demo_path)
    gains = bytes(checkpoint.read("output_norm.weight"))
    checkpoint.close()
    damaged = demo_path.read_bytes().replace(gains, b"\xff" * len(gains))  # NaN
    (tmp_path / "damaged.gguf").write_bytes(damaged)
    core = EngineCore(EngineConfig(str(tmp_path / "damaged.gguf"), pages=64))
    core.submit(Submit(1, list(range(100, 140)), SamplingParams(n=2, max_tokens=4)))
    failed = []
    while core.has_work:
        step = core.step()
        assert not step.tokens
        failed += step.failed
    assert {(item.request_id, item.failure.seen) for item in failed} == {
        (1, "the model's output is not a number")
    }
    status = core.status()
    assert (status.pages_free, status.pages_cached) == (64, 0), "nothing that is broken is remembered"
