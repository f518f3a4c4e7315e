"""From the engine's tokens to text: detokenise, find stop strings, collect results."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pascaline.engine.messages import PromptOutput, TokenOutput
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.outputs import Completion, Delta, RequestResult, TokenLogprob
from pascaline.text.detokenizer import IncrementalDetokenizer
from pascaline.text.tokenizer import Tokenizer


class StopStrings:
    """Finds the first stop string in growing text, and holds back what may become one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._pending = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that is safe to show, and whether a stop string was met (nothing follows then)."""
        if not self._stop:
            return text, False
        self._pending += text
        # The match that is complete first counts, so that the text's cuts make no difference.
        found = [(at + len(stop), at) for stop in self._stop if (at := self._pending.find(stop)) >= 0]
        if found:
            shown, self._pending = self._pending[: min(found)[1]], ""
            return shown, True
        held = max(self._overlap(stop) for stop in self._stop)
        cut = len(self._pending) - held
        shown, self._pending = self._pending[:cut], self._pending[cut:]
        return shown, False

    def flush(self) -> str:
        """What was held back, at the end."""
        held, self._pending = self._pending, ""
        return held

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the text that begins `stop`."""
        for length in range(min(len(stop) - 1, len(self._pending)), 0, -1):
            if self._pending.endswith(stop[:length]):
                return length
        return 0


@dataclass
class _Continuation:
    completion: Completion
    detokenizer: IncrementalDetokenizer
    stop: StopStrings


class RequestOutput:
    """The text side of one running request."""

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: list[int], params: SamplingParams) -> None:
        self.params = params
        self.result = RequestResult(prompt_token_ids, [])
        self._submitted_s = time.monotonic()
        self._first_token_s: float | None = None
        self._continuations = []
        for index in range(params.n):
            completion = Completion(index, logprobs=None if params.logprobs is None else [])
            self.result.completions.append(completion)
            self._continuations.append(
                _Continuation(
                    completion,
                    IncrementalDetokenizer(tokenizer, prompt_token_ids),
                    StopStrings(params.stop),
                )
            )

    @property
    def finished(self) -> bool:
        return all(item.finish_reason is not None for item in self.result.completions)

    def on_prompt(self, output: PromptOutput) -> None:
        """The prompt of a continuation has been computed."""
        if output.index == 0:
            self.result.cached_tokens = output.cached_tokens
            self.result.prompt_logprobs = output.logprobs

    def on_token(self, output: TokenOutput) -> tuple[Delta | None, bool]:
        """The delta of a token, and whether the engine must be told to stop that continuation.

        Tokens of a continuation that has ended here already (a stop string was met while the
        next step ran) give nothing.
        """
        continuation = self._continuations[output.index]
        completion = continuation.completion
        if completion.finish_reason is not None:
            return None, False
        self._take_time()
        completion.token_ids.append(output.token_id)
        logprob = None
        if output.logprob is not None:
            logprob = TokenLogprob(output.token_id, output.logprob, output.top_logprobs or [])
            if completion.logprobs is not None:
                completion.logprobs.append(logprob)
        reason = output.finish_reason
        # The token that ends a sequence is not part of its text.
        raw = "" if reason == "stop" else continuation.detokenizer.push(output.token_id)
        if reason is not None:
            raw += continuation.detokenizer.finish()
        text, stopped = continuation.stop.push(raw)
        abort = stopped and reason is None
        if stopped:
            reason = "stop"
        elif reason is not None:
            text += continuation.stop.flush()
        completion.text += text
        completion.finish_reason = reason
        return Delta(output.index, text, output.token_id, logprob, reason), abort

    def _take_time(self) -> None:
        now = time.monotonic()
        if self._first_token_s is None:
            self._first_token_s = now
            self.result.prefill_s = now - self._submitted_s
        self.result.decode_s = now - self._first_token_s
