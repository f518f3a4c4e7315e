"""One continuation of one request, on its way through the engine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pascaline.engine.messages import PromptLogprob
from pascaline.engine.sampling_params import SamplingParams


@dataclass(eq=False)
class Sequence:
    """State of a sequence. The scheduler owns `computed`, `settled` and `pages`.

    `tokens` are prompt and output together; the first `computed` of them have their keys and
    values in `pages`, or will by steps under way; of the first `settled` results were read, and were numbers.
    `order` is the order of arrival: lower goes first and is preempted last.
    `leader` is the sibling (of n) whose prompt this one waits for, to share its pages.
    `pending` tokens behind `tokens` were sampled by steps whose results have not been read yet.
    """

    request_id: int
    index: int
    order: int
    params: SamplingParams
    seed: int
    tokens: list[int]
    prompt_length: int
    leader: Sequence | None = None
    computed: int = 0
    settled: int = 0
    pending: int = 0
    pages: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    prompt_reported: bool = False
    finished: bool = False
    prompt_logprobs: list[PromptLogprob] = field(default_factory=list)
    output_counts: Counter[int] = field(default_factory=Counter)

    @property
    def length(self) -> int:
        """Tokens, those that are pending included."""
        return len(self.tokens) + self.pending

    @property
    def output_length(self) -> int:
        return self.length - self.prompt_length

    @property
    def uncomputed(self) -> int:
        return self.length - self.computed

    @property
    def prompt_computed(self) -> bool:
        return self.computed >= self.prompt_length

    @property
    def wants_prompt_logprobs(self) -> bool:
        return self.params.prompt_logprobs is not None and self.index == 0 and not self.prompt_reported

    @property
    def is_penalised(self) -> bool:
        """Whether its next token depends on how often those before it came."""
        params = self.params
        return bool(params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty)

    def append(self, token_id: int) -> None:
        """A sampled token."""
        self.tokens.append(token_id)
        self.output_counts[token_id] += 1


@dataclass(frozen=True)
class Chunk:
    """A sequence's part in a step: tokens `start` … `start + count` are computed.

    The last of them are the `draft`, tokens that may follow the sequence's: what is sampled says if they do.
    """

    sequence: Sequence
    start: int
    count: int
    draft: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        return self.start + self.count

    @property
    def known_stop(self) -> int:
        """The first token behind those that are certain."""
        return self.stop - len(self.draft)

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches the end of the sequence, so that a new token follows."""
        return self.known_stop == self.sequence.length
