"""Stop strings in growing text, and what a request's tokens become."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pascaline.engine.messages import PromptLogprob, PromptOutput, TokenOutput
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.model_text import ModelText
from pascaline.llm.output_processor import RequestOutput, StopStrings
from pascaline.llm.outputs import TokenLogprob
from pascaline.text.tokenizer import Tokenizer


def naive(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Character by character: the first moment at which the text ends with a stop string."""
    for length in range(1, len(text) + 1):
        ends = [item for item in stop if text[:length].endswith(item)]
        if ends:
            return text[: length - max(map(len, ends))], True
    return text, False


@settings(max_examples=500)
@given(
    pieces=st.lists(st.text("abc", max_size=5), max_size=12),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_stop_strings_like_the_naive_search(pieces: list[str], stop: tuple[str, ...]) -> None:
    search = StopStrings(stop)
    shown = ""
    stopped = False
    for piece in pieces:
        text, stopped = search.push(piece)
        shown += text
        assert not any(item in shown for item in stop)
        if stopped:
            break
    assert (shown + ("" if stopped else search.flush()), stopped) == naive("".join(pieces), stop)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    search = StopStrings(("</s>",))
    assert search.push("a <") == ("a ", False)
    assert search.push("/") == ("", False)
    assert search.push("b") == ("</b", False)
    assert search.push("</s") == ("", False)
    assert search.flush() == "</s"
    assert StopStrings(()).push("anything") == ("anything", False)


def test_the_cut_of_the_text_makes_no_difference() -> None:
    assert StopStrings(("abcd", "bc")).push("abcd") == ("a", True)
    search = StopStrings(("abcd", "bc"))
    assert search.push("ab") == ("", False)
    assert search.push("cd") == ("a", True)


@pytest.fixture(scope="module")
def tokenizer(demo_path: Path) -> Tokenizer:
    return ModelText.load(demo_path).tokenizer


def run(output: RequestOutput, ids: list[int], index: int = 0, end: str | None = None) -> list[str]:
    """Feed tokens, the last with `end` as the engine's reason; the texts of the deltas."""
    texts = []
    for number, token_id in enumerate(ids):
        reason = end if number == len(ids) - 1 else None
        delta, _ = output.on_token(TokenOutput(1, index, token_id, reason))
        if delta is not None:
            assert delta.index == index
            assert delta.token_id == token_id
            texts.append(delta.text)
    return texts


def test_text_and_reason_of_a_full_length(tokenizer: Tokenizer) -> None:
    output = RequestOutput(tokenizer, [1], SamplingParams(max_tokens=20))
    text = "Grüße, 世界 👋 from\n  Paris"
    ids = tokenizer.encode(text)
    texts = run(output, ids, end="length")
    [completion] = output.result.completions
    assert completion.text == "".join(texts) == text
    assert completion.token_ids == ids
    assert (completion.finish_reason, completion.logprobs) == ("length", None)
    assert output.finished
    assert output.result.prefill_s > 0
    assert output.result.decode_s >= 0


def test_the_token_that_ends_is_no_part_of_the_text(tokenizer: Tokenizer) -> None:
    output = RequestOutput(tokenizer, [1], SamplingParams(stop_token_ids=(28,)))
    ids = [*tokenizer.encode("Hello there"), 28]
    run(output, ids, end="stop")
    [completion] = output.result.completions
    assert completion.text == "Hello there"
    assert completion.token_ids == ids
    assert completion.finish_reason == "stop"


def test_a_character_cut_by_the_end_is_replaced(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("👋")
    assert len(ids) > 1
    output = RequestOutput(tokenizer, [1], SamplingParams())
    assert run(output, ids[:-1], end="length")[-1] == "\ufffd"


def test_a_stop_string_ends_the_text_and_asks_for_an_abort(tokenizer: Tokenizer) -> None:
    output = RequestOutput(tokenizer, [1], SamplingParams(stop=(" brown",)))
    ids = tokenizer.encode("The quick brown fox")
    deltas = [output.on_token(TokenOutput(1, 0, token_id)) for token_id in ids]
    stops = [number for number, (_, abort) in enumerate(deltas) if abort]
    assert len(stops) == 1
    assert all(delta is None for delta, _ in deltas[stops[0] + 1 :])
    last, _ = deltas[stops[0]]
    assert last is not None
    assert last.finish_reason == "stop"
    [completion] = output.result.completions
    assert completion.text == "The quick"
    assert completion.token_ids == ids[: stops[0] + 1]


def test_a_stop_string_in_the_last_token_needs_no_abort(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two")
    output = RequestOutput(tokenizer, [1], SamplingParams(stop=("two",)))
    output.on_token(TokenOutput(1, 0, ids[0]))
    delta, abort = output.on_token(TokenOutput(1, 0, ids[1], "length"))
    assert delta is not None
    assert (delta.text, delta.finish_reason, abort) == (" ", "stop", False)


def test_what_was_held_back_comes_with_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two")
    output = RequestOutput(tokenizer, [1], SamplingParams(stop=("two three",)))
    assert run(output, ids, end="length") == ["one", " two"]


def test_continuations_are_kept_apart(tokenizer: Tokenizer) -> None:
    output = RequestOutput(tokenizer, [1], SamplingParams(n=2, stop=("X",)))
    first, second = tokenizer.encode("alpha X"), tokenizer.encode("beta gamma")
    output.on_token(TokenOutput(1, 1, second[0]))
    run(output, first, 0)
    assert not output.finished
    run(output, second[1:], 1, "length")
    assert output.finished
    assert [(c.index, c.text, c.finish_reason) for c in output.result.completions] == [
        (0, "alpha ", "stop"),
        (1, "beta gamma", "length"),
    ]


def test_logprobs_are_collected(tokenizer: Tokenizer) -> None:
    output = RequestOutput(tokenizer, [1, 2], SamplingParams(logprobs=1, prompt_logprobs=1))
    prompt_logprobs = [PromptLogprob(2, -0.5, [(3, -0.25)])]
    output.on_prompt(PromptOutput(1, 0, 16, prompt_logprobs))
    output.on_prompt(PromptOutput(1, 1, 32, None))
    delta, _ = output.on_token(TokenOutput(1, 0, 28, None, -1.5, [(29, -0.75)]))
    expected = TokenLogprob(28, -1.5, [(29, -0.75)])
    assert delta is not None
    assert delta.logprob == expected
    assert output.result.completions[0].logprobs == [expected]
    assert output.result.prompt_logprobs == prompt_logprobs
    assert output.result.cached_tokens == 16
