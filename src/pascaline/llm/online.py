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
class RunningRequest:
    """A request under way. `deltas` yields until every continuation has finished."""

    request_id: int
    output: RequestOutput
    inbox: asyncio.Queue[Delta | PascalineError] = field(default_factory=asyncio.Queue)

    async def deltas(self) -> AsyncIterator[Delta]:
        """News as it comes.

        Raises
        ------
        PascalineError : the request was refused, or the engine has gone.
        """
        while not (self.output.finished and self.inbox.empty()):
            item = await self.inbox.get()
            if isinstance(item, PascalineError):
                raise item
            yield item


class AsyncLLM:
    """A model in an engine process of its own.

    `start` first, `stop` at the end. Every request runs inside `request`, whose end, however it
    comes about, gives the request's pages back.
    """

    def __init__(self, text: ModelText) -> None:
        self.text = text
        self.status: EngineStatus | None = None
        self.failure: PascalineError | None = None
        self._engine = EngineProcess(self._on_step, self._on_failure)
        self._ready: Ready | None = None
        self._live: dict[int, RunningRequest] = {}
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
    async def request(
        self, prompt_token_ids: list[int], params: SamplingParams
    ) -> AsyncIterator[RunningRequest]:
        """Run a request for as long as the block lasts.

        Raises
        ------
        ConfigError : the prompt cannot be run.
        EngineError : the engine has gone.
        """
        if self.failure is not None:
            raise self.failure
        check_prompt(prompt_token_ids, self.ready.max_model_len)
        check_token_ids([*prompt_token_ids, *params.logit_bias], self.ready.vocab_size)
        params = params.seeded()
        self._next_request_id += 1
        output = RequestOutput(self.text.tokenizer, prompt_token_ids, params)
        running = RunningRequest(self._next_request_id, output)
        self._live[running.request_id] = running
        self._engine.send(Submit(running.request_id, prompt_token_ids, params))
        try:
            yield running
        finally:
            del self._live[running.request_id]
            if not output.finished:
                self._engine.send(Abort(running.request_id))

    def _on_step(self, step: StepOutputs) -> None:
        self.status = step.status
        for failed in step.failed:
            if failed.request_id in self._live:
                self._live[failed.request_id].inbox.put_nowait(failed.failure.error())
        for prompt in step.prompts:
            if prompt.request_id in self._live:
                self._live[prompt.request_id].output.on_prompt(prompt)
        for token in step.tokens:
            running = self._live.get(token.request_id)
            if running is None:
                continue
            delta, abort = running.output.on_token(token)
            if abort:
                self._engine.send(Abort(token.request_id, token.index))
            if delta is not None:
                running.inbox.put_nowait(delta)

    def _on_failure(self, error: PascalineError) -> None:
        self.failure = error
        for running in self._live.values():
            running.inbox.put_nowait(error)
