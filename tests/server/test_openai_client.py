"""The API as the openai client sees it, whole and streamed, and what it refuses."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

QUESTION: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say only: yes"},
]
COUNTING = "1, 2, 3, 4,"
END_OF_TURN = 2  # <|im_end|>


@pytest.fixture(scope="module")
def client(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "demo", "messages": QUESTION, "temperature": 0, "max_tokens": 8, **fields}
    )


def complete(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(
        **{"model": "demo", "prompt": COUNTING, "temperature": 0, "max_tokens": 6, **fields}
    )


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("demo", "model", "pascaline")
    assert client.models.retrieve("demo") == model
    with pytest.raises(openai.NotFoundError, match="'gpt-4' is not served here; 'demo' is"):
        client.models.retrieve("gpt-4")


def test_chat_answer_and_stream_say_the_same(client: openai.OpenAI) -> None:
    whole = chat(client)
    [choice] = whole.choices
    assert (whole.object, whole.model) == ("chat.completion", "demo")
    assert (choice.message.role, choice.message.content) == ("assistant", "Yes.")
    assert choice.finish_reason == "stop"
    # "Yes", "." and the end of the turn, which is counted and not shown.
    assert (whole.usage.completion_tokens, whole.usage.total_tokens) == (3, whole.usage.prompt_tokens + 3)

    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert {(chunk.id, chunk.object) for chunk in chunks} == {(chunks[0].id, "chat.completion.chunk")}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == choice.message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert (chunks[-1].choices, [chunk.usage for chunk in chunks[:-1]]) == ([], [None] * (len(chunks) - 1))
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens

    without = list(chat(client, stream=True, max_tokens=2))
    assert all(chunk.choices and chunk.usage is None for chunk in without)
    assert without[-1].choices[0].finish_reason == "length"


def test_chat_fields_that_change_the_answer(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "Say only: yes"}]
    same = chat(client, messages=[QUESTION[0], {"role": "user", "content": parts}])
    assert same.choices[0].message.content == "Yes."
    short = chat(client, max_completion_tokens=1).choices[0]
    assert (short.message.content, short.finish_reason) == ("Yes", "length")
    ended = chat(client, logit_bias={str(END_OF_TURN): 100})
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("", "stop")
    assert ended.usage.completion_tokens == 1
    forbidden = chat(client, logit_bias={str(END_OF_TURN): -100}, max_tokens=5)
    assert forbidden.choices[0].finish_reason == "length"
    # The other services' extensions travel in the body, as their users send them.
    assert chat(client, extra_body={"ignore_eos": True}, max_tokens=5).choices[0].finish_reason == "length"
    only = chat(client, temperature=1.5, extra_body={"top_k": 1}, response_format={"type": "text"})
    assert only.choices[0].message.content == "Yes."


def test_completion_and_stream_say_the_same(client: openai.OpenAI) -> None:
    whole = complete(client)
    [choice] = whole.choices
    assert (whole.object, choice.text, choice.finish_reason) == ("text_completion", " 5, 6,", "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (11, 6)
    chunks = list(complete(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == choice.text
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 6


def test_prompts_as_lists_and_as_token_ids(client: openai.OpenAI) -> None:
    ids = [504, 3575, 282, 4649, 314]  # The capital of France is
    texts = complete(client, prompt=["The capital of France is", COUNTING], max_tokens=3)
    tokens = complete(client, prompt=[ids, ids], max_tokens=3)
    assert [(choice.index, choice.text) for choice in texts.choices] == [(0, " Paris.\n"), (1, " 5,")]
    assert [choice.text for choice in tokens.choices] == [" Paris.\n"] * 2
    assert complete(client, prompt=ids, max_tokens=3).choices[0].text == " Paris.\n"
    assert texts.usage.prompt_tokens == len(ids) + 11
    streamed: dict[int, str] = {}
    for chunk in complete(client, prompt=["The capital of France is", COUNTING], max_tokens=3, stream=True):
        [piece] = chunk.choices
        streamed[piece.index] = streamed.get(piece.index, "") + piece.text
    assert streamed == {0: " Paris.\n", 1: " 5,"}


def test_stop_strings_end_the_text_before_them(client: openai.OpenAI) -> None:
    for stop in (", 6", ["nowhere", ", 6"]):
        [choice] = complete(client, stop=stop, max_tokens=16).choices
        assert (choice.text, choice.finish_reason) == (" 5", "stop")
    chunks = list(complete(client, stop=", 6", max_tokens=16, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == " 5"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_seed_repeats_and_n_differ(client: openai.OpenAI) -> None:
    def texts(seed: int) -> list[str]:
        answer = complete(client, prompt="My favourite", n=2, temperature=1.5, seed=seed, max_tokens=5)
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert answer.usage.completion_tokens == 10
        return [choice.text for choice in answer.choices]

    first = texts(7)
    assert first[0] != first[1]
    assert texts(7) == first
    assert texts(8) != first
    pieces = ["", ""]
    for chunk in complete(
        client, prompt="My favourite", n=2, temperature=1.5, seed=7, max_tokens=5, stream=True
    ):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == first


def test_chat_logprobs(client: openai.OpenAI) -> None:
    [choice] = chat(client, logprobs=True, top_logprobs=3).choices
    entries = choice.logprobs.content
    assert [entry.token for entry in entries] == ["Yes", ".", "<|im_end|>"]
    for entry in entries:
        assert bytes(entry.bytes).decode() == entry.token
        assert entry.top_logprobs[0].token == entry.token  # greedy took the likeliest
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0
        probabilities = [math.exp(rival.logprob) for rival in entry.top_logprobs]
        assert len(probabilities) == 3
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1 + 1e-6
    streamed = [
        entry
        for chunk in chat(client, logprobs=True, top_logprobs=3, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]
    assert [entry.logprob for entry in streamed] == pytest.approx(
        [entry.logprob for entry in entries], abs=1e-4
    )
    assert all(not e.top_logprobs for e in chat(client, logprobs=True).choices[0].logprobs.content)


def test_bytes_of_logprobs_are_whole_where_a_token_is_a_part_of_a_character(client: openai.OpenAI) -> None:
    # A token of its own for each byte of 🦙, which the stop string then ends.
    [choice] = chat(
        client, messages=[{"role": "user", "content": "🦙🦙🦙🦙🦙🦙 🦙"}], logprobs=True, max_tokens=12
    ).choices
    joined = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content)
    text = joined.decode(errors="replace").removesuffix("<|im_end|>")
    assert text == choice.message.content


def test_completion_logprobs_and_echo(client: openai.OpenAI) -> None:
    [plain] = complete(client, logprobs=2, max_tokens=3).choices
    assert plain.text == "".join(plain.logprobs.tokens) == " 5,"
    assert [len(rivals) for rivals in plain.logprobs.top_logprobs] == [2, 2, 2]
    assert plain.logprobs.text_offset == [0, 1, 2]
    [echoed] = complete(client, logprobs=2, max_tokens=3, echo=True).choices
    assert echoed.text == "".join(echoed.logprobs.tokens) == COUNTING + " 5,"
    values = echoed.logprobs.token_logprobs
    assert values[0] is None
    assert len(values) == 11 + 3
    assert all(value < 0 for value in values[1:])
    assert values[11:] == pytest.approx(plain.logprobs.token_logprobs, abs=1e-4)
    assert complete(client, max_tokens=1, echo=True).choices[0].text == COUNTING + " "
    rare = complete(client, logit_bias={"504": 100}, logprobs=1, max_tokens=1).choices[0].logprobs
    # Of the raw distribution, and the chosen token is told although it is not among the likeliest.
    assert rare.token_logprobs[0] == rare.top_logprobs[0]["The"] < -5
    assert len(rare.top_logprobs[0]) == 2


def test_prompt_logprobs_are_told_where_they_are_asked_for(client: openai.OpenAI) -> None:
    asked = {"max_tokens": 1, "extra_body": {"prompt_logprobs": 2}}
    [echoed] = complete(client, max_tokens=1, logprobs=2, echo=True).choices
    assert "prompt_logprobs" not in echoed.model_dump()
    for choice in complete(client, n=2, **asked).choices:
        told = choice.prompt_logprobs
        assert [entry["token"] for entry in told[1:]] == echoed.logprobs.tokens[1:-1]
        assert [entry["logprob"] for entry in told[1:]] == echoed.logprobs.token_logprobs[1:-1]
        assert {len(entry["top_logprobs"]) for entry in told[1:]} == {2}
        assert told[0] is None
    assert chat(client, **asked).prompt_logprobs[0] is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 10**30}, f"max_tokens is 1000.* to {2**31 - 1}"),
        ({"n": 0}, "n is 0"),
        ({"n": 1000}, "n is 1000"),
        ({"presence_penalty": 3}, "presence_penalty is 3"),
        ({"logit_bias": {"999999": 1}}, "token id 999999"),
        ({"logit_bias": {"5": 101}}, "logit_bias of token 5 is 101"),
        ({"logit_bias": {"word": 1}}, "logit_bias"),
        ({"stop": [""]}, "stop"),
        ({"extra_body": {"prompt_logprobs": 1}, "stream": True}, "'prompt_logprobs' and 'stream'"),
        ({"seed": 2**70}, "seed"),
        ({"stream": "perhaps"}, "stream"),
        ({"extra_body": {"beam_width": 4}}, "unknown field 'beam_width'"),
        ({"extra_body": {"stream_options": {"usage": True}}}, r"unknown field 'stream_options\.usage'"),
    ],
)
def test_bad_values_are_refused_by_name(client: openai.OpenAI, fields: dict[str, Any], named: str) -> None:
    for call in (chat, complete):
        with pytest.raises(openai.BadRequestError, match=named) as caught:
            call(client, **fields)
        assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "'tools'"),
        ({"response_format": {"type": "json_object"}}, "response_format to 'json_object'"),
        ({"top_logprobs": 2}, "top_logprobs without logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs is 21"),
        ({"messages": []}, "messages|conversation"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "image",
        ),
        ({"messages": [{"content": "no role"}]}, r"messages\.0\.role"),
    ],
)
def test_chat_refuses_by_name(client: openai.OpenAI, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        chat(client, **fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"suffix": "end"}, "'suffix'"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "stream": True}, "'echo' and 'stream'"),
        ({"logprobs": 21}, "logprobs is 21"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": []}, "no prompt"),
        ({"prompt": [5, 999_999]}, "token id 999999"),
        ({"prompt": {"text": "x"}}, "prompt"),
        ({"prompt": ["a"] * 20, "n": 60}, "20 prompts × n = 60"),
    ],
)
def test_completions_refuse_by_name(client: openai.OpenAI, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        complete(client, **fields)


@pytest.mark.parametrize("stream", [False, True])
def test_another_model_and_a_too_long_prompt(client: openai.OpenAI, stream: bool) -> None:
    for call in (chat, complete):
        with pytest.raises(openai.NotFoundError, match="'gpt-4' is not served here; 'demo' is") as caught:
            call(client, model="gpt-4", stream=stream)
        assert caught.value.code == "model_not_found"
    context = client.models.list().data[0].model_dump()["max_model_len"]
    with pytest.raises(openai.BadRequestError, match=f"{context + 1} tokens .*context of {context} tokens"):
        complete(client, prompt=[5] * (context + 1), stream=stream)


def test_stop_strings_that_are_no_unicode_are_refused_and_leave_nothing_behind(server_url: str) -> None:
    ask = b'"model": "demo", "stop": ["a", "b\\ud800"]'
    json = {"Content-Type": "application/json"}
    chat_body = b'{"messages": [{"role": "user", "content": "x"}], %b}' % ask
    for path, body in (("completions", b'{"prompt": "x", %b}' % ask), ("chat/completions", chat_body)):
        answer = httpx.post(f"{server_url}/v1/{path}", content=body, headers=json)
        assert answer.status_code == 400
        assert "character 1 of stop is half of a surrogate pair" in answer.json()["error"]["message"]
    assert "pascaline_requests_live 0.0" in httpx.get(f"{server_url}/metrics").text


def test_bodies_that_are_no_requests(server_url: str) -> None:
    json = {"Content-Type": "application/json"}
    with httpx.Client(base_url=f"{server_url}/v1") as plain:
        for body in (b'{"model": "demo", "prompt": "x"', b"\xff\xfe", b""):
            answer = plain.post("/completions", content=body, headers=json)
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        assert "not valid JSON" in plain.post("/completions", content=b"{x", headers=json).text
        huge = plain.post("/completions", content=iter([b" " * (1 << 20)] * 33), headers=json)
        assert (huge.status_code, "bytes" in huge.json()["error"]["message"]) == (413, True)
        for content, headers in ((b"{}", {"Content-Type": "text/plain"}), (b"", json), (b"[]", json)):
            answer = plain.post("/completions", content=content, headers=headers)
            assert "header Content-Type: application/json" in answer.json()["error"]["message"]
        answer = plain.get("/completions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert plain.get("/nowhere").json()["error"]["type"] == "not_found_error"
    assert httpx.head(f"{server_url}/health").status_code == 200
    assert httpx.head(server_url).status_code == 200


def test_sixteen_streams_at_once_each_say_what_one_alone_says(client: openai.OpenAI, server_url: str) -> None:
    prompts = ["The capital of France is", COUNTING, "Once upon a time", "def add(a, b):"]
    alone = [complete(client, prompt=prompt).choices[0].text for prompt in prompts]

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as several:

            async def one(prompt: str) -> str:
                stream = await several.completions.create(
                    model="demo", prompt=prompt, temperature=0, max_tokens=6, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            whole = await several.chat.completions.create(model="demo", messages=QUESTION, temperature=0)
            assert whole.choices[0].message.content == "Yes."
            return await asyncio.gather(*map(one, prompts * 4))

    assert asyncio.run(all_at_once()) == alone * 4
