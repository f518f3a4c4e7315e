"""POST /v1/completions, whole and streamed, for one or several prompts."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from pascaline.core.errors import ConfigError, PascalineError
from pascaline.llm.outputs import Completion, RequestResult, TokenLogprob
from pascaline.server.errors import model_not_found, pascaline_error_body
from pascaline.server.generation import Generation, Service, service_of, unless_disconnected, usage
from pascaline.server.logprobs import prompt_logprob_entries
from pascaline.server.schemas import CompletionRequest
from pascaline.server.sse import EventStream
from pascaline.text.tokenizer import Tokenizer

router = APIRouter()

MAX_CHOICES = 1024
"""Each choice is a sequence with a state of its own; more are better sent as several requests."""


@router.post("/v1/completions", response_model=None)
async def completions(body: CompletionRequest, request: Request) -> Response:
    service = service_of(request)
    if body.model != service.served_name:
        return model_not_found(body.model, service.served_name)
    body.refuse_what_is_not_served()
    prompts = [service.llm.text.encode(prompt) for prompt in body.prompts()]
    if not prompts:
        raise ConfigError("the request has no prompt", expected="at least one")
    if len(prompts) * body.n > MAX_CHOICES:
        raise ConfigError(
            f"the request asks for {len(prompts)} prompts × n = {body.n} answers",
            expected=f"at most {MAX_CHOICES} at once",
        )
    generation = Generation(service, prompts, body.settings())
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": service.served_name,
    }
    if body.stream:
        return EventStream(_chunks(service, generation, body, head))
    results = await unless_disconnected(request, generation.complete())
    if results is None:
        return Response(status_code=499)  # nobody is there to read it
    tokenizer = service.llm.text.tokenizer
    choices = [
        _choice(tokenizer, result, completion, number * body.n + completion.index, body)
        for number, result in enumerate(results)
        for completion in result.completions
    ]
    return JSONResponse({**head, "choices": choices, "usage": usage(results)})


async def _chunks(
    service: Service, generation: Generation, body: CompletionRequest, head: dict[str, object]
) -> AsyncGenerator[dict[str, object], None]:
    tokenizer = service.llm.text.tokenizer
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    offsets: dict[int, int] = {}

    def chunk(choices: list[dict[str, object]]) -> dict[str, object]:
        made = {**head, "choices": choices}
        return {**made, "usage": None} if include_usage else made

    try:
        async with aclosing(generation.events()) as events:
            async for number, delta in events:
                index = number * body.n + delta.index
                logprobs = None
                if delta.logprob is not None:
                    logprobs = _logprobs(tokenizer, [delta.logprob], offsets.get(index, 0))
                    offsets[index] = offsets.get(index, 0) + len(tokenizer.token_text(delta.token_id))
                if delta.text or logprobs is not None or delta.finish_reason is not None:
                    yield chunk(
                        [
                            {
                                "index": index,
                                "text": delta.text,
                                "logprobs": logprobs,
                                "finish_reason": delta.finish_reason,
                            }
                        ]
                    )
        if include_usage:
            yield {**chunk([]), "usage": usage(generation.results)}
    except PascalineError as error:
        yield pascaline_error_body(error)[1]


def _choice(
    tokenizer: Tokenizer, result: RequestResult, completion: Completion, index: int, body: CompletionRequest
) -> dict[str, object]:
    prompt_text = tokenizer.decode(result.prompt_token_ids) if body.echo else ""
    logprobs = None
    if completion.logprobs is not None:
        before: list[TokenLogprob | int] = []
        if body.echo:
            before = [
                result.prompt_token_ids[0],
                *(
                    TokenLogprob(item.token_id, item.logprob, item.top_logprobs)
                    for item in result.prompt_logprobs or ()
                ),
            ]
        logprobs = _logprobs(tokenizer, [*before, *completion.logprobs], 0)
    choice: dict[str, object] = {
        "index": index,
        "text": prompt_text + completion.text,
        "logprobs": logprobs,
        "finish_reason": completion.finish_reason,
    }
    if body.prompt_logprobs is not None:
        choice["prompt_logprobs"] = prompt_logprob_entries(tokenizer, result)
    return choice


def _logprobs(tokenizer: Tokenizer, items: Sequence[TokenLogprob | int], offset: int) -> dict[str, object]:
    """The completions API's form. A bare token id is the first of a prompt, which has none."""
    tokens: list[str] = []
    values: list[float | None] = []
    top: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for item in items:
        token_id = item if isinstance(item, int) else item.token_id
        text = tokenizer.token_text(token_id)
        tokens.append(text)
        offsets.append(offset)
        offset += len(text)
        if isinstance(item, int):
            values.append(None)
            top.append(None)
        else:
            values.append(item.logprob)
            rivals = {tokenizer.token_text(rival): value for rival, value in item.top_logprobs}
            top.append({**rivals, text: item.logprob} if rivals else {})
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
