"""Every message survives the engine's wire, however the stream is cut."""

from __future__ import annotations

import dataclasses
import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pascaline.core import errors
from pascaline.core.errors import ConfigError, EngineError, PascalineError
from pascaline.core.progress import Progress
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import (
    MAX_MESSAGE_BYTES,
    Abort,
    EngineStatus,
    Failed,
    FrameBuffer,
    FromEngine,
    PromptLogprob,
    PromptOutput,
    Ready,
    RequestFailed,
    Shutdown,
    Start,
    StartProgress,
    StepOutputs,
    Submit,
    ToEngine,
    TokenOutput,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from pascaline.engine.sampling_params import SamplingParams

integers = st.integers(0, 2**40)
ids = st.integers(0, 2**31 - 1)
numbers = st.floats(allow_nan=False)
shares = st.floats(0.01, 1.0)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
top_logprobs = st.lists(st.tuples(ids, numbers), max_size=3)


def optional(strategy: st.SearchStrategy[typing.Any]) -> st.SearchStrategy[typing.Any]:
    return st.none() | strategy


configs = st.builds(
    EngineConfig,
    model_path=texts,
    device=st.sampled_from(("auto", "cpu", "cuda")),
    load_format=st.sampled_from(("auto", "dummy")),
    speculation=st.sampled_from(("auto", "off")),
    max_model_len=optional(st.integers(2, 10**6)),
    gpu_memory_utilization=shares,
    max_batch_tokens=st.integers(100, 9000),
    max_sequences=st.integers(1, 100),
    arithmetic=st.sampled_from(["auto", "fp32"]),
    key_value_dtype=st.sampled_from(["auto", "fp16", "bf16", "int8", "fp32"]),
    pages=optional(st.integers(1, 10**6)),
)
params = st.builds(
    SamplingParams,
    n=st.integers(1, 64),
    max_tokens=optional(st.integers(1, 10**6)),
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 10**6),
    top_p=shares,
    min_p=shares,
    repetition_penalty=shares,
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(ids, st.floats(-100, 100), max_size=3),
    seed=optional(st.integers(-(2**63), 2**63 - 1)),
    stop=st.lists(texts.filter(bool), max_size=3).map(tuple),
    stop_token_ids=st.lists(ids, max_size=3).map(tuple),
    ignore_eos=st.booleans(),
    logprobs=optional(st.integers(0, 20)),
    prompt_logprobs=optional(st.integers(0, 20)),
)
statuses = st.builds(EngineStatus, *[integers] * 12, numbers)
tokens = st.builds(
    TokenOutput,
    integers,
    st.integers(0, 63),
    ids,
    optional(st.sampled_from(("stop", "length"))),
    optional(numbers),
    optional(top_logprobs),
)
prompt_logprobs = st.lists(st.builds(PromptLogprob, ids, numbers, top_logprobs), max_size=3)
prompts = st.builds(PromptOutput, integers, st.integers(0, 63), integers, optional(prompt_logprobs))
to_engine: st.SearchStrategy[ToEngine] = st.one_of(
    st.builds(Start, configs),
    st.builds(Submit, integers, st.lists(ids, max_size=40), params),
    st.builds(Abort, integers, optional(st.integers(0, 63))),
    st.just(Shutdown()),
)
from_engine: st.SearchStrategy[FromEngine] = st.one_of(
    st.builds(StartProgress, st.builds(Progress, texts, numbers, numbers, texts, numbers, optional(numbers))),
    st.builds(
        Ready,
        texts,
        integers,
        integers,
        st.lists(ids, max_size=3),
        *[integers] * 6,
        numbers,
        st.lists(st.tuples(texts, optional(numbers), numbers), max_size=2),
        st.lists(texts, max_size=3),
    ),
    st.builds(Failed, texts, texts, texts, texts),
    st.builds(
        StepOutputs,
        statuses,
        st.lists(tokens, max_size=4),
        st.lists(prompts, max_size=2),
        st.lists(
            st.builds(RequestFailed, integers, st.builds(Failed, texts, texts, texts, texts)), max_size=2
        ),
    ),
)


def in_pieces(data: st.DataObject, stream: bytes) -> list[bytes]:
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    return [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(messages=st.lists(to_engine, max_size=4), data=st.data())
def test_what_a_client_sends_arrives(messages: list[ToEngine], data: st.DataObject) -> None:
    frames = FrameBuffer()
    stream = b"".join(encode(message) for message in messages)
    bodies = [body for piece in in_pieces(data, stream) for body in frames.feed(piece)]
    assert [decode_to_engine(body) for body in bodies] == messages


@given(messages=st.lists(from_engine, max_size=4), data=st.data())
def test_what_an_engine_sends_arrives(messages: list[FromEngine], data: st.DataObject) -> None:
    frames = FrameBuffer()
    stream = b"".join(encode(message) for message in messages)
    bodies = [body for piece in in_pieces(data, stream) for body in frames.feed(piece)]
    assert [decode_from_engine(body) for body in bodies] == messages


def test_the_strategies_build_every_message_and_setting() -> None:
    """A new message or setting has to be added above."""
    assert set(typing.get_args(ToEngine)) == {Start, Submit, Abort, Shutdown}
    assert set(typing.get_args(FromEngine)) == {StartProgress, Ready, Failed, StepOutputs}
    assert len(dataclasses.fields(SamplingParams)) == 16
    assert len(dataclasses.fields(EngineConfig)) == 11
    assert len(msgspec.structs.fields(EngineStatus)) == 13
    assert len(msgspec.structs.fields(Ready)) == 13


def test_byte_by_byte() -> None:
    frames = FrameBuffer()
    stream = encode(Abort(1)) + encode(Shutdown())
    bodies = [body for index in range(len(stream)) for body in frames.feed(stream[index : index + 1])]
    assert [decode_to_engine(body) for body in bodies] == [Abort(1), Shutdown()]


def test_a_length_beyond_the_limit_is_refused() -> None:
    with pytest.raises(EngineError, match=str(MAX_MESSAGE_BYTES + 1)):
        list(FrameBuffer().feed((MAX_MESSAGE_BYTES + 1).to_bytes(4, "little")))


def test_a_setting_that_is_refused_here_is_refused_there() -> None:
    """The dataclasses' own checks run when a message is decoded, too."""
    body = encode(Submit(1, [2], SamplingParams(n=2)))[4:]
    assert body.count(b"\xa1n\x02") == 1
    with pytest.raises(ConfigError, match="n is 65"):
        decode_to_engine(body.replace(b"\xa1n\x02", b"\xa1n\x41"))


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not PascalineError]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if issubclass(kind, PascalineError)])
def test_a_failure_keeps_its_class_and_its_words(kind: type[PascalineError]) -> None:
    sent = Failed.of(kind("seen", expected="expected", remedy="remedy"))
    received = decode_from_engine(encode(sent)[4:])
    assert isinstance(received, Failed)
    error = received.error()
    assert type(error) is kind
    assert str(error) == "seen (expected expected). remedy"


def test_a_failure_of_an_unknown_class_is_the_engines() -> None:
    assert type(Failed("SomethingElse", "seen", "", "").error()) is EngineError
