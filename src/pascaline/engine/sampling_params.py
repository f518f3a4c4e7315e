"""How a request's tokens are chosen and when it ends."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

from pascaline.core.errors import ConfigError

MAX_LOGPROBS = 20
MAX_SEQUENCES_PER_REQUEST = 64
MAX_COUNT = 2**31 - 1
"""What messages and tensors can carry."""


@dataclass(frozen=True)
class SamplingParams:
    """Settings of one request, named as in the OpenAI and vLLM interfaces.

    Parameters
    ----------
    n : number of independent continuations.
    max_tokens : most tokens to generate; None fills the context.
    temperature : 0 picks the most likely token every time.
    top_k : sample from the k most likely tokens; 0 for all.
    top_p : sample from the smallest set whose probability reaches p (Holtzman et al. 2019).
    min_p : drop tokens less likely than min_p times the most likely one.
    repetition_penalty : divides positive (multiplies negative) logits of tokens seen in prompt or
        output (Keskar et al. 2019).
    presence_penalty, frequency_penalty : subtracted once, or once per occurrence, from the logits
        of generated tokens.
    logit_bias : token id -> number added to its logit.
    seed : makes sampling repeatable; None draws one. Continuation i of n uses its own stream.
    stop : strings that end the text before them; matched outside of the engine.
    stop_token_ids : token ids that end a sequence, besides the model's own.
    ignore_eos : go on past the model's own end tokens.
    logprobs, prompt_logprobs : report the log-probability of each generated (prompt) token and of
        this many most likely alternatives, from the raw distribution before all of the above.
    """

    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("n", 1, MAX_SEQUENCES_PER_REQUEST),
            ("top_k", 0, MAX_COUNT),
            ("max_tokens", 1, MAX_COUNT),
            ("logprobs", 0, MAX_LOGPROBS),
            ("prompt_logprobs", 0, MAX_LOGPROBS),
            ("seed", -(2**63), 2**63 - 1),
        ):
            if getattr(self, name) is not None or name in ("n", "top_k"):
                _check_range(name, getattr(self, name), low, high, whole=True)
        for name, least, most in (
            ("temperature", 0.0, 100.0),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repetition_penalty", 0.0, 100.0),
            ("presence_penalty", -2.0, 2.0),
            ("frequency_penalty", -2.0, 2.0),
        ):
            _check_range(name, getattr(self, name), least, most)
        if self.top_p == 0.0:
            raise ConfigError("top_p is 0", expected="above 0 and at most 1")
        if self.repetition_penalty == 0.0:
            raise ConfigError("repetition_penalty is 0", expected="above 0 and at most 100")
        stop: object = self.stop
        if isinstance(stop, str):
            raise ConfigError(f"stop is the string {stop!r}", expected="a tuple of strings")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise ConfigError("stop has an empty string or something that is no string")
        for token_id in (*self.stop_token_ids, *self.logit_bias):
            _check_range("a token id in stop_token_ids or logit_bias", token_id, 0, MAX_COUNT, whole=True)
        for token_id, bias in self.logit_bias.items():
            _check_range(f"logit_bias of token {token_id}", bias, -100.0, 100.0)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    def seeded(self) -> SamplingParams:
        """The same with a seed: its own, or one drawn now."""
        return self if self.seed is not None else replace(self, seed=secrets.randbits(62))


def _check_range(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        too_large = isinstance(value, int) and value > high
        bounds = f"at least {low}" if high == MAX_COUNT and not too_large else f"from {low} to {high}"
        raise ConfigError(f"{name} is {value!r}", expected=f"a whole number, {bounds}" if whole else bounds)
