"""The engine itself: schedule, run, sample, commit. The same in-process and in its own process.

Where a runner computes by itself, on a card, the next step is launched before the results of this one are
read, if it is sure what the next step is: what the host does for a step then takes no time of the card's.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

from pascaline.core.errors import ConfigError, CudaError, EngineError
from pascaline.core.progress import ProgressCallback, ignore_progress
from pascaline.engine.batch import PreparedStep, SampledRow, prepare
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
from pascaline.engine.sampler import Sampled, Samples, top_logprobs
from pascaline.engine.scheduler import Scheduler
from pascaline.engine.sequence import Chunk, Sequence
from pascaline.engine.shrinking import give_back_memory, is_out_of_memory
from pascaline.engine.speculation import Drafts, Speculation
from pascaline.engine.start import start
from pascaline.workload.limits import most_sampled_rows


@dataclass(frozen=True)
class _Launched:
    """A step whose results have not been read."""

    prepared: PreparedStep
    samples: Samples
    began: float

    @property
    def drafts(self) -> bool:
        """Whether its results decide how far sequences have come."""
        return any(chunk.draft for chunk in self.prepared.chunks)

    @property
    def decodes(self) -> bool:
        """Whether all of it is of sequences that decode."""
        return all(chunk.known_stop - chunk.start == 1 for chunk in self.prepared.chunks)


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
        self.plan = started.plan
        self.scheduler = Scheduler(self.plan.pages, config.max_batch_tokens, config.max_sequences)
        self._runner = started.runner
        self._sampler = started.sampler
        self._speculation: Speculation | None = None
        if config.speculation == "auto":
            rows = most_sampled_rows(config.max_batch_tokens, config.max_sequences)
            self._speculation = Speculation(rows)
        self._launched: _Launched | None = None
        self._eos_token_ids = frozenset(started.model_config.eos_token_ids)
        self._requests: dict[int, list[Sequence]] = {}
        self._failed: list[RequestFailed] = []
        self._next_order = 0
        self._steps = 0
        self._step_s = 0.0
        self._step_ended = 0.0
        self._prompt_tokens = 0
        self._cached_prompt_tokens = 0
        self._generated_tokens = 0
        self._drafted_tokens = 0
        self._accepted_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.scheduler.waiting or self.scheduler.running or self._failed or self._launched)

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
        """Read one step's results, with the next under way where that is possible.

        Returns at once, with no more than the status, when there is nothing to run, and, where a runner
        computes by itself, after the first launch.
        """
        began = max(time.monotonic(), self._step_ended)
        tokens: list[TokenOutput] = []
        prompts: list[PromptOutput] = []
        ready, self._launched = self._launched, None
        if ready is not None:
            ahead = [] if ready.drafts else self._chunks_ahead()
            if ahead:
                self._launched = self._launch_in_memory(ahead, ready.prepared)
            self._finish(ready, tokens, prompts)
        if self._launched is None:
            chunks = self.scheduler.schedule()
            if chunks:
                chunks = self.scheduler.with_drafts(chunks, self._drafts(chunks))
                self._launched = self._launch_in_memory(chunks)
        if self._launched is not None and not self._runner.computes_by_itself:
            ready, self._launched = self._launched, None
            self._finish(ready, tokens, prompts)
        if ready is not None:
            self._steps += 1
            ended = time.monotonic()
            self._note_time(ready, ended - max(ready.began, self._step_ended))
            self._step_ended = ended
            self._step_s = self._step_ended - began
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
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=self._accepted_tokens,
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

    def _chunks_ahead(self) -> list[Chunk]:
        """The step after one whose results are not known; empty where these decide what it is."""
        running = self.scheduler.running
        if any(sequence.is_penalised or sequence.wants_prompt_logprobs for sequence in running):
            return []
        continuing = [each for each in running if not self._ends(each, each.length)]
        chunks = self.scheduler.schedule_ahead(continuing)
        return self.scheduler.with_drafts(chunks, self._choose_drafts(continuing)) if chunks else []

    def _drafts(self, chunks: list[Chunk]) -> Drafts:
        """Of a step that is to be launched: none unless all of its sequences decode."""
        sequences = [chunk.sequence for chunk in chunks]
        decode = all(chunk.count == 1 and chunk.sequence.output_length for chunk in chunks)
        return self._choose_drafts(sequences) if decode else {}

    def _choose_drafts(self, sequences: list[Sequence]) -> Drafts:
        if self._speculation is None:
            return {}
        most_rows = self.scheduler.max_batch_tokens
        return self._speculation.choose(sequences, self._most_drafted, most_rows)

    def _most_drafted(self, sequence: Sequence) -> int:
        """Tokens of a draft that the sequence could go on by, with one more behind them."""
        most = self.ready.max_model_len - sequence.length
        if sequence.params.max_tokens is not None:
            most = min(most, sequence.params.max_tokens - sequence.output_length)
        return max(0, most - 1)

    def _note_time(self, ended: _Launched, seconds: float) -> None:
        if self._speculation is not None and ended.decodes:
            chunks = ended.prepared.chunks
            self._speculation.times.add(len(chunks), sum(chunk.count for chunk in chunks), seconds)

    def _launch_in_memory(self, chunks: list[Chunk], before: PreparedStep | None = None) -> _Launched | None:
        """The step under way; None where memory does not suffice for it, and smaller ones will follow.

        One that takes tokens of a step `before` from the card is not tried again: once its own sampling has
        begun, others may lie in their place. It is launched anew when the results are read.
        """
        for _ in range(2 if before is None else 1):
            try:
                return self._launch(chunks, before)
            except (torch.OutOfMemoryError, CudaError) as error:
                if not is_out_of_memory(error):
                    raise
            give_back_memory()  # outside of the handler, which holds what the step had allocated
        for chunk in chunks:
            if chunk.draft:
                self.scheduler.trim(chunk.sequence)
        if before is None:
            self._make_room(chunks)
        return None

    def _make_room(self, chunks: list[Chunk]) -> None:
        """After a step that did not fit: take smaller ones, or else end its largest request."""
        if any(chunk.draft for chunk in chunks):
            self._speculation = None
            sys.stderr.write("note: memory does not suffice for speculation, which is off from now on\n")
            return
        tokens = sum(chunk.count for chunk in chunks)
        if self.scheduler.halve_steps(tokens):
            sys.stderr.write(
                f"note: memory does not suffice for a step of {tokens} tokens: from now on they have at most "
                f"{self.scheduler.max_batch_tokens}\n"
            )
            return
        largest = max(chunks, key=lambda chunk: chunk.count).sequence
        self._fail(
            largest,
            EngineError(
                f"memory does not suffice for a step of {tokens} tokens with this request",
                remedy="Start the server with a lower --gpu-memory-utilization or --max-sequences",
            ),
        )

    def _launch(self, chunks: list[Chunk], before: PreparedStep | None = None) -> _Launched:
        began = time.monotonic()
        prepared = prepare(chunks, before)
        logits = self._runner.run(prepared.batch)
        self._note_prompt_logprobs(prepared, logits)
        if prepared.prompt_rows:  # else all rows are sampled from, in order
            logits = logits[[each.row for each in prepared.sampled]]
        samples = self._sampler.launch(
            logits, [each.sequence for each in prepared.sampled], [each.ahead for each in prepared.sampled]
        )
        self.scheduler.launched(chunks)
        self._drafted_tokens += sum(len(chunk.draft) for chunk in chunks)
        for each in prepared.sampled:
            each.sequence.pending += not each.ahead
        return _Launched(prepared, samples, began)

    def _finish(self, launched: _Launched, tokens: list[TokenOutput], prompts: list[PromptOutput]) -> None:
        """Read a step's results: its tokens are known, and prompts that it completed are remembered."""
        prepared = launched.prepared
        sampled = launched.samples.read()
        for each in prepared.sampled:
            each.sequence.pending -= not each.ahead
        broken = {
            each.sequence
            for each, choice in zip(prepared.sampled, sampled, strict=True)
            if not (each.ahead or choice.is_finite)
        }
        # What broken sequences computed must not be remembered for others.
        self.scheduler.commit(
            [each for each in prepared.chunks if not (each.sequence in broken or each.sequence.finished)]
        )
        missed: set[Sequence] = set()
        for each, choice in zip(prepared.sampled, sampled, strict=True):
            sequence = each.sequence
            if sequence.finished:
                continue  # with a broken sibling, or by an abort while its step was under way
            if each.ahead and not self._holds(each, missed):
                continue
            if not choice.is_finite:
                self._fail(sequence, _not_a_number())
                continue
            if not sequence.prompt_reported:
                prompts.append(self._report_prompt(sequence))
            tokens.append(self._accept(sequence, choice))
        for chunk in prepared.chunks:
            if chunk.draft and not chunk.sequence.finished:
                self.scheduler.trim(chunk.sequence)

    def _holds(self, row: SampledRow, missed: set[Sequence]) -> bool:
        """Whether a draft is what was sampled, as far as the row goes; `missed` are those that were not."""
        sequence = row.sequence
        if sequence in missed or sequence.tokens[-1] != row.drafted:
            missed.add(sequence)
            return False
        self.scheduler.accept(sequence)
        self._accepted_tokens += 1
        return True

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

    def _fail(self, sequence: Sequence, error: EngineError) -> None:
        """End a request that cannot go on; nothing that it computed is remembered."""
        self._failed.append(RequestFailed(sequence.request_id, Failed.of(error)))
        for sibling in self._requests[sequence.request_id]:
            self.scheduler.forget(sibling)
        self.abort(Abort(sequence.request_id))

    def _finish_reason(self, sequence: Sequence, token_id: int) -> str | None:
        params = sequence.params
        if token_id in params.stop_token_ids:
            return "stop"
        if token_id in self._eos_token_ids and not params.ignore_eos:
            return "stop"
        return "length" if self._ends(sequence, len(sequence.tokens)) else None

    def _ends(self, sequence: Sequence, length: int) -> bool:
        """Whether the sequence may not be longer than `length` tokens."""
        most = sequence.params.max_tokens
        return length >= self.ready.max_model_len or (
            most is not None and length - sequence.prompt_length >= most
        )

    def _drop(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        siblings = self._requests[sequence.request_id]
        siblings.remove(sequence)
        if not siblings:
            del self._requests[sequence.request_id]


def _not_a_number() -> EngineError:
    """Of logits that are NaN or infinite: no token follows from them."""
    return EngineError(
        "the model's output is not a number",
        remedy="Its weights may be damaged: fetch the model again",
    )
