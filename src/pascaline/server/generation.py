"""Running a request's prompts and merging what they produce; shared by the completion routes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from pascaline.core.errors import PascalineError
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.model_text import check_prompt, check_token_ids
from pascaline.llm.online import AsyncLLM
from pascaline.llm.outputs import Delta, RequestResult
from pascaline.server.metrics import ServerMetrics
from pascaline.server.sse import disconnected

Result = TypeVar("Result")


@dataclass(frozen=True)
class Service:
    """What routes need; kept in the application's state."""

    llm: AsyncLLM
    metrics: ServerMetrics
    served_name: str
    created: int


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


class Generation:
    """All prompts of one HTTP request, run side by side.

    `results[i]` belongs to prompt i and fills while `events` is read.
    """

    def __init__(self, service: Service, prompts: list[list[int]], params: SamplingParams) -> None:
        if service.llm.failure is not None:
            raise service.llm.failure
        ready = service.llm.ready
        for prompt in prompts:
            check_prompt(prompt, ready.max_model_len)
            check_token_ids(prompt, ready.vocab_size)
        check_token_ids([*params.logit_bias, *params.stop_token_ids], ready.vocab_size)
        self.results: list[RequestResult] = []
        self._service = service
        self._prompts = prompts
        self._params = params

    async def events(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """(prompt, delta) as they come; closing it early drops the requests."""
        metrics = self._service.metrics
        began = time.monotonic()
        outcome = "disconnect"
        try:
            async with self._service.llm.requests(self._prompts, self._params) as running:
                self.results += [output.result for output in running.outputs]
                first = True
                async for item in running.deltas():
                    if first:
                        metrics.time_to_first_token.observe(time.monotonic() - began)
                        first = False
                    yield item
            metrics.request_duration.observe(time.monotonic() - began)
            outcome = self.results[0].completions[0].finish_reason or "error"
        except PascalineError:
            outcome = "error"
            raise
        finally:
            metrics.requests.labels(outcome).inc()

    async def complete(self) -> list[RequestResult]:
        """Run to the end."""
        async with contextlib.aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self.results


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Await `work`, but drop it (and return None) when the client goes away first."""
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


def usage(results: list[RequestResult]) -> dict[str, object]:
    """OpenAI's token counts over all prompts and continuations."""
    prompt = sum(len(result.prompt_token_ids) for result in results)
    completion = sum(len(item.token_ids) for result in results for item in result.completions)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(result.cached_tokens for result in results)},
    }
