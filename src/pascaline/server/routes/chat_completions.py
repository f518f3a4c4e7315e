"""POST /v1/chat/completions, whole and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from pascaline.core.errors import PascalineError
from pascaline.llm.outputs import Completion
from pascaline.server.errors import model_not_found, pascaline_error_body
from pascaline.server.generation import Generation, Service, service_of, unless_disconnected, usage
from pascaline.server.logprobs import logprob_entry, prompt_logprob_entries
from pascaline.server.schemas import ChatCompletionRequest
from pascaline.server.sse import EventStream
from pascaline.text.tokenizer import Tokenizer

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
    service = service_of(request)
    if body.model != service.served_name:
        return model_not_found(body.model, service.served_name)
    body.refuse_what_is_not_served()
    params = body.settings()
    messages = [message.model_dump(exclude_none=True) for message in body.messages]
    generation = Generation(service, [service.llm.text.encode_chat(messages)], params)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": service.served_name,
    }
    if body.stream:
        return EventStream(_chunks(service, generation, body, head))
    results = await unless_disconnected(request, generation.complete())
    if results is None:
        return Response(status_code=499)  # nobody is there to read it
    tokenizer = service.llm.text.tokenizer
    answer: dict[str, object] = {
        **head,
        "object": "chat.completion",
        "choices": [_choice(tokenizer, completion) for completion in results[0].completions],
        "usage": usage(results),
    }
    if results[0].prompt_logprobs is not None:
        answer["prompt_logprobs"] = prompt_logprob_entries(tokenizer, results[0])
    return JSONResponse(answer)


async def _chunks(
    service: Service, generation: Generation, body: ChatCompletionRequest, head: dict[str, object]
) -> AsyncGenerator[dict[str, object], None]:
    tokenizer = service.llm.text.tokenizer
    include_usage = body.stream_options is not None and body.stream_options.include_usage

    def chunk(choices: list[dict[str, object]]) -> dict[str, object]:
        made = {**head, "object": "chat.completion.chunk", "choices": choices}
        return {**made, "usage": None} if include_usage else made

    def choice(index: int, delta: dict[str, object], reason: str | None = None) -> dict[str, object]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    try:
        for index in range(body.n):
            yield chunk([choice(index, {"role": "assistant", "content": ""})])
        async with aclosing(generation.events()) as events:
            async for _, delta in events:
                if delta.text or delta.logprob is not None:
                    made = choice(delta.index, {"content": delta.text})
                    if delta.logprob is not None:
                        made["logprobs"] = {
                            "content": [logprob_entry(tokenizer, delta.logprob)],
                            "refusal": None,
                        }
                    yield chunk([made])
                if delta.finish_reason is not None:
                    yield chunk([choice(delta.index, {}, delta.finish_reason)])
        if include_usage:
            yield {**chunk([]), "usage": usage(generation.results)}
    except PascalineError as error:
        yield pascaline_error_body(error)[1]


def _choice(tokenizer: Tokenizer, completion: Completion) -> dict[str, object]:
    logprobs = None
    if completion.logprobs is not None:
        content = [logprob_entry(tokenizer, item) for item in completion.logprobs]
        logprobs = {"content": content, "refusal": None}
    return {
        "index": completion.index,
        "message": {"role": "assistant", "content": completion.text, "refusal": None},
        "logprobs": logprobs,
        "finish_reason": completion.finish_reason,
    }
