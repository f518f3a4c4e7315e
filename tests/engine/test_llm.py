"""The `LLM` class with the demo model: what a request may ask for, and what it gets."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from pascaline.core.errors import ConfigError
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.offline import LLM
from pascaline.llm.outputs import Completion

PROMPT = "The capital of France is"
ANSWER = " Paris.\n\nThe"  # what follows is nearly a tie
"""What the demo model says, greedily."""


def greedy(max_tokens: int | None = None, **settings: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, **settings)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def nothing_is_left(demo_llm: LLM) -> None:
    yield  # type: ignore[misc]
    status = demo_llm.core.status()
    assert (status.running, status.waiting) == (0, 0)
    assert status.pages_free + status.pages_cached == status.pages_total
    assert not demo_llm._live


def test_a_device_that_is_none_is_not_taken_for_cuda() -> None:
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        LLM("demo", device="tpu")  # type: ignore[arg-type]


def test_prompts_from_an_iterator(demo_llm: LLM) -> None:
    results = demo_llm.generate((prompt for prompt in (PROMPT, PROMPT)), greedy(1))  # type: ignore[arg-type]
    assert [result.completions[0].text for result in results] == [" Paris"] * 2


def test_threads_that_generate_at_once(demo_llm: LLM) -> None:
    prompts = [f"Count {number}: 1, 2," for number in range(6)]
    alone = [demo_llm.generate(prompt, greedy(8))[0].completions[0].text for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        found = list(pool.map(lambda prompt: demo_llm.generate(prompt, greedy(8)), prompts))
    assert [result.completions[0].text for [result] in found] == alone


def test_each_way_to_end(demo_llm: LLM) -> None:
    """One batch: every request ends in a way of its own, and none disturbs another."""
    [dot] = demo_llm.text.encode(".")
    [eos, *_] = demo_llm.ready.eos_token_ids
    bias = {eos: 100.0}
    wishes = {
        "length": greedy(5),
        "one token": greedy(1),
        "stop string": greedy(9, stop=("nothing of this", "\nThe")),
        "stop token": greedy(9, stop_token_ids=(dot,)),
        "end token": greedy(9, logit_bias=bias),
        "end token ignored": greedy(3, logit_bias=bias, ignore_eos=True),
    }
    results = demo_llm.generate([PROMPT] * len(wishes), list(wishes.values()))
    found: dict[str, Completion] = {
        name: result.completions[0] for name, result in zip(wishes, results, strict=True)
    }
    assert {name: (item.text, item.finish_reason) for name, item in found.items()} == {
        "length": (ANSWER, "length"),
        "one token": (" Paris", "length"),
        "stop string": (" Paris.\n", "stop"),
        "stop token": (" Paris", "stop"),
        "end token": ("", "stop"),
        "end token ignored": ("", "length"),
    }
    assert found["stop token"].token_ids[-1] == dot
    assert found["end token"].token_ids == [eos]
    assert found["end token ignored"].token_ids == [eos] * 3
    assert len(found["length"].token_ids) == 5
    assert all(result.prefill_s > 0 for result in results)


def test_a_full_context_ends_with_length(demo_llm: LLM) -> None:
    [result] = demo_llm.generate([[17] * 509], greedy(ignore_eos=True))
    [completion] = result.completions
    assert len(completion.token_ids) == 3
    assert completion.finish_reason == "length"


def test_a_remembered_prefix_is_not_computed_again(demo_llm: LLM) -> None:
    prompt = demo_llm.text.encode("One two three four five six seven eight nine ten. " * 4)
    [first] = demo_llm.generate([prompt], greedy(3, logprobs=3))
    assert first.cached_tokens == 0
    computed = demo_llm.core.status()
    [second] = demo_llm.generate([prompt], greedy(3, logprobs=3))
    assert second.cached_tokens == (len(prompt) - 1) // 16 * 16 > 0
    counted = demo_llm.core.status()
    assert counted.prompt_tokens - computed.prompt_tokens == len(prompt)
    assert counted.cached_prompt_tokens - computed.cached_prompt_tokens == second.cached_tokens
    [one], [other] = first.completions, second.completions
    assert one.token_ids == other.token_ids
    assert one.logprobs is not None
    assert other.logprobs is not None
    for left, right in zip(one.logprobs, other.logprobs, strict=True):
        assert left.logprob == pytest.approx(right.logprob, abs=1e-4)


def test_logprobs_of_output_and_of_prompt_agree(demo_llm: LLM) -> None:
    """What was generated, given as a prompt, has the same log-probabilities there."""
    [result] = demo_llm.generate(PROMPT, greedy(4, logprobs=2))
    [completion] = result.completions
    assert completion.logprobs is not None
    for token_id, item in zip(completion.token_ids, completion.logprobs, strict=True):
        assert item.token_id == token_id
        # Greedy: the chosen token is the likeliest.
        assert item.top_logprobs[0] == (token_id, item.logprob)
        assert item.top_logprobs[0][1] >= item.top_logprobs[1][1]
        assert sum(math.exp(value) for _, value in item.top_logprobs) <= 1.0
    prompt = result.prompt_token_ids + completion.token_ids
    [again] = demo_llm.generate([prompt], greedy(1, prompt_logprobs=2))
    assert again.prompt_logprobs is not None
    assert [item.token_id for item in again.prompt_logprobs] == prompt[1:]
    for told, item in zip(completion.logprobs, again.prompt_logprobs[-4:], strict=True):
        assert item.logprob == pytest.approx(told.logprob, abs=1e-4)
        assert [token_id for token_id, _ in item.top_logprobs] == [key for key, _ in told.top_logprobs]
    # They need every token's logits, so nothing may be taken from the tree.
    assert again.cached_tokens == 0


def test_prompt_logprobs_across_chunks_equal_those_of_one(demo_llm: LLM, cramped_llm: LLM) -> None:
    prompt = demo_llm.text.encode("A page, a chunk, a step: " * 20)[:130]
    whole, cut = (
        llm.generate([prompt], greedy(1, prompt_logprobs=0))[0].prompt_logprobs
        for llm in (demo_llm, cramped_llm)
    )
    assert whole is not None
    assert cut is not None
    assert [item.token_id for item in cut] == [item.token_id for item in whole] == prompt[1:]
    assert [item.logprob for item in cut] == pytest.approx([item.logprob for item in whole], abs=1e-3)


def test_a_seed_repeats_itself_alone_and_among_others(demo_llm: LLM) -> None:
    def wish(seed: int) -> SamplingParams:
        return SamplingParams(temperature=1.5, max_tokens=5, seed=seed, n=2, ignore_eos=True)

    together = demo_llm.generate([PROMPT] * 3, [wish(1), wish(2), wish(1)])
    [alone] = demo_llm.generate(PROMPT, wish(1))
    first, other, again = ([item.token_ids for item in result.completions] for result in together)
    assert first == again == [item.token_ids for item in alone.completions]
    assert first != other
    assert first[0] != first[1]


def test_streams_can_be_interleaved(demo_llm: LLM) -> None:
    first, second = (demo_llm.stream(PROMPT, greedy(5)), demo_llm.stream("1, 2, 3,", greedy(5)))
    ids: tuple[list[int], list[int]] = ([], [])
    texts = ["", ""]
    for deltas in zip(first, second, strict=True):
        for number, delta in enumerate(deltas):
            ids[number].append(delta.token_id)
            texts[number] += delta.text
    results = demo_llm.generate([PROMPT, "1, 2, 3,"], greedy(5))
    assert list(ids) == [result.completions[0].token_ids for result in results]
    assert texts == [result.completions[0].text for result in results]


def test_leaving_a_stream_drops_its_request(demo_llm: LLM) -> None:
    stream = demo_llm.stream(PROMPT, greedy(50))
    next(stream)
    assert demo_llm.core.status().running == 1
    stream.close()
    assert demo_llm.core.status().running == 0


def test_a_stream_that_nobody_reads_costs_nothing(demo_llm: LLM) -> None:
    demo_llm.stream(PROMPT, greedy(50))
    assert not demo_llm.core.has_work


def test_a_stop_string_in_a_stream_is_never_shown(demo_llm: LLM) -> None:
    deltas = list(demo_llm.stream(PROMPT, greedy(20, stop=("\nThe",))))
    assert "".join(delta.text for delta in deltas) == " Paris.\n"
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "stop"


def test_chat_uses_the_template(demo_llm: LLM) -> None:
    [result] = demo_llm.chat([[{"role": "user", "content": "Hi"}]], greedy(1))
    text = demo_llm.text.tokenizer.decode(result.prompt_token_ids, skip_special_tokens=False)
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_one_prompt_of_token_ids_may_be_given_bare(demo_llm: LLM) -> None:
    [result] = demo_llm.generate(demo_llm.text.encode(PROMPT), greedy(1))
    assert result.completions[0].text == " Paris"
    assert demo_llm.generate([]) == []


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([""], "the prompt is empty"),
        ([[]], "the prompt is empty"),
        ([[1] * 512], "the prompt has 512 tokens .*fewer than the context of 512"),
        ([[5, 49152]], "49152 is not in the vocabulary .*0 to 49151"),
        ([[5, -1]], "-1 is not in the vocabulary"),
        ([[5, 1.5]], "1.5 is not in the vocabulary"),
        ([[5, "a"]], "'a' is not in the vocabulary"),
        ([5, PROMPT], "mix"),
        (["\ud800"], "surrogate"),
    ],
)
def test_wrong_prompts_are_refused(demo_llm: LLM, prompts: list[object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        demo_llm.generate([*prompts, PROMPT] if prompts[0] != 5 else prompts, greedy(1))  # type: ignore[list-item, arg-type]
    if prompts[0] != 5:
        with pytest.raises(ConfigError, match=message):
            demo_llm.stream(prompts[0], greedy(1))  # type: ignore[arg-type]


def test_wrong_params_are_refused(demo_llm: LLM) -> None:
    with pytest.raises(ConfigError, match="2 sampling params for 1 prompts"):
        demo_llm.generate([PROMPT], [greedy(1)] * 2)
    with pytest.raises(ConfigError, match="99999 is not in the vocabulary"):
        demo_llm.generate([PROMPT], greedy(1, logit_bias={99999: 1.0}))


def test_few_pages_change_when_not_what(demo_llm: LLM, cramped_llm: LLM) -> None:
    """Eight requests that all need a third page at the same time, where there are two for each."""
    text = demo_llm.text.encode(
        "Alice was beginning to get very tired of sitting by her sister on the bank, and of "
        "having nothing to do: once or twice she had peeped into the book her sister"
    )
    prompts = [[*text[shift : shift + 29], 28, 216 + shift] for shift in range(8)]
    roomy = demo_llm.generate(prompts, greedy(6, ignore_eos=True))
    before = cramped_llm.core.status().preemptions
    cramped = cramped_llm.generate(prompts, greedy(6, ignore_eos=True))
    assert cramped_llm.core.status().preemptions > before
    assert [item.completions[0].token_ids for item in cramped] == [
        item.completions[0].token_ids for item in roomy
    ]
    status = cramped_llm.core.status()
    assert status.pages_free + status.pages_cached == status.pages_total == 16
