"""`AsyncLLM`: an engine process, used from asyncio; what the server is built on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from pascaline.core.errors import EngineError, PascalineError
from pascaline.core.progress import ProgressCallback
from pascaline.engine.client import EngineProcess
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Abort, EngineStatus, Ready, StepOutputs, Submit
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.model_text import ModelText, check_prompt, check_token_ids
from pascaline.llm.output_processor import RequestOutput
from pascaline.llm.outputs import Delta


@dataclass(frozen=True)
class RunningRequests:
    """Prompts under way side by side, `outputs[i]` is of prompt i."""

    outputs: list[RequestOutput]
    inbox: asyncio.Queue[tuple[int, Delta] | PascalineError] = field(default_factory=asyncio.Queue)

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """(prompt, news) as they come, until every continuation of every prompt has finished.

        Raises
        ------
        PascalineError : a request was refused, or the engine has gone.
        """
        while not (self.inbox.empty() and all(output.finished for output in self.outputs)):
            item = await self.inbox.get()
            if isinstance(item, PascalineError):
                raise item
            yield item


@dataclass(frozen=True)
class _Live:
    """One of the running prompts."""

    running: RunningRequests
    number: int

    @property
    def output(self) -> RequestOutput:
        return self.running.outputs[self.number]


class AsyncLLM:
    """A model in an engine process of its own.

    `start` first, `stop` at the end. Every request runs inside `requests`, whose end, however it
    comes about, gives the request's pages back.
    """

    def __init__(self, text: ModelText) -> None:
        self.text = text
        self.status: EngineStatus | None = None
        self.failure: PascalineError | None = None
        self._engine = EngineProcess(self._on_step, self._on_failure)
        self._ready: Ready | None = None
        self._live: dict[int, _Live] = {}
        self._next_request_id = 0

    async def start(self, config: EngineConfig, report: ProgressCallback) -> Ready:
        """Start the engine; raises what it found wrong."""
        self._ready = await self._engine.start(config, report)
        return self._ready

    async def stop(self) -> None:
        """End the engine. Live requests get an error."""
        self.end_requests()
        await self._engine.stop()

    def end_requests(self) -> None:
        """Let live requests fail because the program ends."""
        self._on_failure(EngineError("the server is shutting down"))

    def kill(self) -> None:
        """End the engine now, whatever it is doing; `stop` is still to be called."""
        self._engine.kill()

    @property
    def ready(self) -> Ready:
        if self._ready is None:
            raise EngineError("the engine has not been started")
        return self._ready

    @property
    def live_requests(self) -> int:
        return len(self._live)

    @contextlib.asynccontextmanager
    async def requests(
        self, prompts: list[list[int]], params: SamplingParams
    ) -> AsyncIterator[RunningRequests]:
        """Run a request for each prompt, given as token ids, for as long as the block lasts.

        Raises
        ------
        ConfigError : a prompt cannot be run.
        EngineError : the engine has gone.
        """
        if self.failure is not None:
            raise self.failure
        for prompt in prompts:
            check_prompt(prompt, self.ready.max_model_len)
            check_token_ids([*prompt, *params.logit_bias], self.ready.vocab_size)
        seeded = [params.seeded() for _ in prompts]
        running = RunningRequests(
            [
                RequestOutput(self.text.tokenizer, prompt, own)
                for prompt, own in zip(prompts, seeded, strict=True)
            ]
        )
        first = self._next_request_id + 1
        self._next_request_id += len(prompts)
        ids = range(first, first + len(prompts))
        try:
            for number, (request_id, prompt, own) in enumerate(zip(ids, prompts, seeded, strict=True)):
                self._engine.send(Submit(request_id, prompt, own))
                self._live[request_id] = _Live(running, number)  # what could not be sent is not
            yield running
        finally:
            for request_id in ids:
                live = self._live.pop(request_id, None)
                if live is not None and not live.output.finished:
                    self._engine.send(Abort(request_id))

    def _on_step(self, step: StepOutputs) -> None:
        self.status = step.status
        for failed in step.failed:
            if failed.request_id in self._live:
                self._live[failed.request_id].running.inbox.put_nowait(failed.failure.error())
        for prompt in step.prompts:
            if prompt.request_id in self._live:
                self._live[prompt.request_id].output.on_prompt(prompt)
        for token in step.tokens:
            live = self._live.get(token.request_id)
            if live is None:
                continue
            delta, abort = live.output.on_token(token)
            if abort:
                self._engine.send(Abort(token.request_id, token.index))
            if delta is not None:
                live.running.inbox.put_nowait((live.number, delta))

    def _on_failure(self, error: PascalineError) -> None:
        self.failure = error
        for live in self._live.values():
            live.running.inbox.put_nowait(error)
