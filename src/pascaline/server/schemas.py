"""Request bodies of the OpenAI API, as far as they are served.

Names and defaults are OpenAI's; `top_k`, `min_p`, `repetition_penalty`, `stop_token_ids`,
`ignore_eos` and `prompt_logprobs` are extensions that other servers share. A field that is
unknown, or known and not served, is refused by name: silently ignoring it would give an answer to
another question.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pascaline.core.errors import ConfigError, UnsupportedError
from pascaline.engine.sampling_params import SamplingParams

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class GenerationRequest(BaseModel):
    """What chat and plain completions have in common."""

    model_config = ConfigDict(extra="forbid")

    NOT_SERVED: ClassVar[tuple[str, ...]] = ()

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool = False
    prompt_logprobs: int | None = None
    # Of no consequence for the answer:
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def refuse_what_is_not_served(self) -> None:
        """Raise `UnsupportedError` for a field that is set and that this server does not do."""
        for name in self.NOT_SERVED:
            if getattr(self, name):
                raise UnsupportedError(f"the request sets {name!r}, which this server does not do yet")
        if self.prompt_logprobs is not None and self.stream:
            raise UnsupportedError(
                "the request sets 'prompt_logprobs' and 'stream' together", expected="one of them"
            )

    def sampling_params(
        self, *, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None
    ) -> SamplingParams:
        """The engine's settings; raises `ConfigError` for values out of range."""
        given: dict[str, Any] = {
            name: value
            for name in (
                "temperature",
                "top_p",
                "presence_penalty",
                "frequency_penalty",
                "logit_bias",
                "seed",
                "top_k",
                "min_p",
                "repetition_penalty",
            )
            if (value := getattr(self, name)) is not None
        }
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        for text in stop:
            _check_unicode("stop", text)
        return SamplingParams(
            n=self.n,
            max_tokens=max_tokens,
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            **given,
        )


class ChatMessage(BaseModel):
    """A turn. Content may be text or a list of text parts."""

    model_config = ConfigDict(extra="allow")
    role: str
    content: str | list[dict[str, Any]] | None = None


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: str


class ChatCompletionRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    NOT_SERVED = ("tools", "tool_choice", "functions", "function_call", "modalities", "audio")

    messages: list[ChatMessage]
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    reasoning_effort: str | None = None

    def refuse_what_is_not_served(self) -> None:
        if self.modalities == ["text"]:
            self.modalities = None
        if self.tool_choice == "none":
            self.tool_choice = None
        super().refuse_what_is_not_served()
        if self.top_logprobs is not None and not self.logprobs:
            raise ConfigError("the request sets top_logprobs without logprobs", expected="logprobs: true")
        if self.response_format is not None and self.response_format.type != "text":
            raise UnsupportedError(
                f"the request sets response_format to {self.response_format.type!r}, "
                "which this server does not do yet"
            )

    def settings(self) -> SamplingParams:
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling_params(max_tokens=limit, logprobs=logprobs, prompt_logprobs=self.prompt_logprobs)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    NOT_SERVED = ("suffix",)
    DEFAULT_MAX_TOKENS: ClassVar[int] = 16

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    logprobs: int | None = None
    echo: bool = False
    best_of: int | None = None
    suffix: str | None = None

    def refuse_what_is_not_served(self) -> None:
        super().refuse_what_is_not_served()
        if self.best_of is not None and self.best_of != self.n:
            raise UnsupportedError(
                f"the request sets best_of to {self.best_of}", expected=f"n, which is {self.n}"
            )
        if self.echo and self.stream:
            raise UnsupportedError("the request sets 'echo' and 'stream' together", expected="one of them")

    def prompts(self) -> list[str | list[int]]:
        """One entry a prompt: text, or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and all(isinstance(item, int) for item in self.prompt):
            return [[item for item in self.prompt if isinstance(item, int)]]
        return [item for item in self.prompt if not isinstance(item, int)]

    def settings(self) -> SamplingParams:
        limit = self.DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        of_prompt = self.prompt_logprobs
        if self.echo and of_prompt is None:
            of_prompt = self.logprobs
        return self.sampling_params(max_tokens=limit, logprobs=self.logprobs, prompt_logprobs=of_prompt)


ErrorType = Literal["invalid_request_error", "authentication_error", "not_found_error", "server_error"]


def _check_unicode(name: str, text: str) -> None:
    """Refuse what JSON can spell and UTF-8, in which the engine is told, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"character {error.start} of {name} is half of a surrogate pair, which is no character",
            remedy="Send valid Unicode",
        ) from error


def error_body(message: str, kind: ErrorType, code: str | None = None) -> dict[str, object]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
