"""What callers receive: deltas while a request runs, results when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from pascaline.engine.messages import PromptLogprob, TopLogprobs


@dataclass(frozen=True)
class TokenLogprob:
    """A token with the log-probability of the raw distribution and its likeliest rivals."""

    token_id: int
    logprob: float
    top_logprobs: TopLogprobs


@dataclass(frozen=True)
class Delta:
    """News of one continuation: a token and the text that became final with it.

    `text` may be empty (half a character, or the possible start of a stop string).
    `finish_reason`, on the last delta, is "stop" or "length".
    """

    index: int
    text: str
    token_id: int
    logprob: TokenLogprob | None = None
    finish_reason: str | None = None


@dataclass
class Completion:
    """One finished continuation. `token_ids` include the end token, `text` does not."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] | None = None


@dataclass
class RequestResult:
    """A finished request.

    `prefill_s` runs from submission to the first token, `decode_s` from there to the last.
    """

    prompt_token_ids: list[int]
    completions: list[Completion]
    prompt_logprobs: list[PromptLogprob] | None = None
    cached_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
