"""The engine itself: schedule, run, sample, commit. The same in-process and in its own process."""

from __future__ import annotations

import time

import torch

from pascaline.core.errors import ConfigError, EngineError
from pascaline.core.progress import ProgressCallback, ignore_progress
from pascaline.engine.batch import PreparedStep, prepare
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import (
    Abort,
    EngineStatus,
    Failed,
    PromptLogprob,
    PromptOutput,
    Ready,
    RequestFailed,
    StepOutputs,
    Submit,
    TokenOutput,
)
from pascaline.engine.sampler import Sampled, sample, top_logprobs
from pascaline.engine.scheduler import Scheduler
from pascaline.engine.sequence import Sequence
from pascaline.engine.start import start


class EngineCore:
    """A loaded model and its live requests. Not thread-safe: one thread calls it.

    >>> core = EngineCore(EngineConfig("model.gguf"))
    >>> core.submit(Submit(1, [504, 3575, 282], SamplingParams(temperature=0.0, max_tokens=8)))
    >>> while core.has_work:
    ...     for token in core.step().tokens:
    ...         print(token.token_id)
    """

    def __init__(self, config: EngineConfig, report: ProgressCallback = ignore_progress) -> None:
        started = start(config, report)
        self.ready: Ready = started.ready
        self.scheduler = Scheduler(started.plan.pages, config.max_batch_tokens, config.max_sequences)
        self._runner = started.runner
        self._device = started.device
        self._eos_token_ids = frozenset(started.model_config.eos_token_ids)
        self._requests: dict[int, list[Sequence]] = {}
        self._failed: list[RequestFailed] = []
        self._next_order = 0
        self._steps = 0
        self._step_s = 0.0
        self._prompt_tokens = 0
        self._cached_prompt_tokens = 0
        self._generated_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.scheduler.waiting or self.scheduler.running or self._failed)

    def submit(self, message: Submit) -> None:
        """Take a request in. One that cannot run is answered with a `RequestFailed` in the next step."""
        reason = self._refusal(message)
        if reason is not None:
            self._failed.append(RequestFailed(message.request_id, Failed.of(ConfigError(reason))))
            return
        params = message.params
        leader: Sequence | None = None
        sequences: list[Sequence] = []
        for index in range(params.n):
            sequence = Sequence(
                request_id=message.request_id,
                index=index,
                order=self._next_order,
                params=params,
                # Continuations get seeds far apart: neighbours are what other requests will use.
                seed=(params.seed or 0) + (index << 40),
                tokens=list(message.prompt_token_ids),
                prompt_length=len(message.prompt_token_ids),
                leader=leader,
            )
            leader = leader or sequence
            self._next_order += 1
            sequences.append(sequence)
            self.scheduler.add(sequence)
        self._requests[message.request_id] = sequences

    def abort(self, message: Abort) -> None:
        """Drop a request or one continuation; its pages are given back now. Unknown ids are fine."""
        for sequence in list(self._requests.get(message.request_id, ())):
            if message.index is None or message.index == sequence.index:
                self._drop(sequence)

    def step(self) -> StepOutputs:
        """Run one step; returns at once, with no more than the status, when there is nothing to run."""
        began = time.monotonic()
        tokens: list[TokenOutput] = []
        prompts: list[PromptOutput] = []
        chunks = self.scheduler.schedule()
        if chunks:
            prepared = prepare(chunks, self._device)
            logits = self._runner.run(prepared.batch)
            self._note_prompt_logprobs(prepared, logits)
            if prepared.prompt_rows:  # else all rows are sampled from, in order
                logits = logits[prepared.sampled_rows]
            sampled = sample(logits, prepared.sampled) if prepared.sampled else []
            broken = {
                item for item, choice in zip(prepared.sampled, sampled, strict=True) if not choice.is_finite
            }
            # What broken sequences computed must not be remembered for others.
            self.scheduler.commit([chunk for chunk in chunks if chunk.sequence not in broken])
            for sequence, choice in zip(prepared.sampled, sampled, strict=True):
                if sequence.finished:
                    continue  # with a broken sibling, a moment ago
                if sequence in broken:
                    self._fail(sequence)
                    continue
                if not sequence.prompt_reported:
                    prompts.append(self._report_prompt(sequence))
                tokens.append(self._accept(sequence, choice))
            self._steps += 1
            self._step_s = time.monotonic() - began
        failed, self._failed = self._failed, []
        return StepOutputs(self.status(), tokens, prompts, failed)

    def status(self) -> EngineStatus:
        """Counters and gauges as of now."""
        scheduler = self.scheduler
        return EngineStatus(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            pages_total=scheduler.pool.total,
            pages_free=scheduler.pool.free,
            pages_cached=scheduler.prefixes.pages,
            preemptions=scheduler.preemptions,
            prompt_tokens=self._prompt_tokens,
            cached_prompt_tokens=self._cached_prompt_tokens,
            generated_tokens=self._generated_tokens,
            steps=self._steps,
            step_s=self._step_s,
        )

    def _refusal(self, message: Submit) -> str | None:
        length = len(message.prompt_token_ids)
        if message.request_id in self._requests:
            return f"request id {message.request_id} is in use"
        if length == 0:
            return "the prompt is empty: at least one token is needed"
        if length >= self.ready.max_model_len:
            return (
                f"the prompt has {length} tokens, and the context is {self.ready.max_model_len} tokens, "
                "at least one of which must be left for the answer"
            )
        ids = [*message.prompt_token_ids, *message.params.logit_bias]
        if min(ids) < 0 or max(ids) >= self.ready.vocab_size:
            return f"a token id is outside of the vocabulary of {self.ready.vocab_size}"
        return None

    def _note_prompt_logprobs(self, prepared: PreparedStep, logits: torch.Tensor) -> None:
        for item in prepared.prompt_rows:
            sequence = item.sequence
            # After a preemption positions come again.
            if item.position == len(sequence.prompt_logprobs) + 1:
                logprobs = logits[item.row].log_softmax(-1)
                token_id = sequence.tokens[item.position]
                count = sequence.params.prompt_logprobs or 0
                sequence.prompt_logprobs.append(
                    PromptLogprob(token_id, float(logprobs[token_id]), top_logprobs(logprobs, count))
                )

    def _report_prompt(self, sequence: Sequence) -> PromptOutput:
        logprobs = list(sequence.prompt_logprobs) if sequence.wants_prompt_logprobs else None
        sequence.prompt_reported = True
        self._prompt_tokens += sequence.prompt_length
        self._cached_prompt_tokens += sequence.cached_tokens
        return PromptOutput(sequence.request_id, sequence.index, sequence.cached_tokens, logprobs)

    def _accept(self, sequence: Sequence, choice: Sampled) -> TokenOutput:
        sequence.append(choice.token_id)
        self._generated_tokens += 1
        reason = self._finish_reason(sequence, choice.token_id)
        if reason is not None:
            self._drop(sequence)
        return TokenOutput(
            sequence.request_id, sequence.index, choice.token_id, reason, choice.logprob, choice.top_logprobs
        )

    def _fail(self, sequence: Sequence) -> None:
        """End a request whose logits are NaN or infinite: no token follows from them."""
        error = EngineError(
            "the model's output is not a number",
            remedy="Its weights may be damaged: fetch the model again",
        )
        self._failed.append(RequestFailed(sequence.request_id, Failed.of(error)))
        for sibling in self._requests[sequence.request_id]:
            sibling.computed = 0
        self.abort(Abort(sequence.request_id))

    def _finish_reason(self, sequence: Sequence, token_id: int) -> str | None:
        params = sequence.params
        if token_id in params.stop_token_ids:
            return "stop"
        if token_id in self._eos_token_ids and not params.ignore_eos:
            return "stop"
        if params.max_tokens is not None and sequence.output_length >= params.max_tokens:
            return "length"
        if len(sequence.tokens) >= self.ready.max_model_len:
            return "length"
        return None

    def _drop(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        siblings = self._requests[sequence.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._requests[sequence.request_id]
