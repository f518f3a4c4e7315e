"""Five hundred requests, a third of which the client cuts off, leave nothing behind."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass

import httpx
import psutil

from running_server import RunningServer, until

REQUESTS = 500
AT_ONCE = 48
IMPATIENT_S = 0.1
MAX_RSS_GROWTH = 48 << 20


@dataclass(frozen=True)
class Holdings:
    """What a leak would add to, in both processes."""

    server_descriptors: int
    server_threads: int
    server_tasks: float
    engine_descriptors: int
    engine_threads: int

    @classmethod
    def of(cls, server: RunningServer) -> Holdings:
        process = psutil.Process(server.process.pid)
        # The connection of a client that has just gone, this test's own among them, closes a moment later.
        assert until(
            lambda: all(item.status == psutil.CONN_LISTEN for item in process.net_connections("tcp"))
        )
        return cls(
            process.num_fds(),
            process.num_threads(),
            server.metrics()["pascaline_server_tasks"],
            server.engine.num_fds(),
            server.engine.num_threads(),
        )


def body(number: int, *, stream: bool, max_tokens: int = 6) -> dict[str, object]:
    prompt = f"Letter {number} begins with"
    return {
        "model": "demo",
        "prompt": prompt,
        "stream": stream,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "seed": 1,
    }


async def read_all(client: httpx.AsyncClient, number: int) -> str:
    async with client.stream("POST", "/v1/completions", json=body(number, stream=True)) as answer:
        lines = [line async for line in answer.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]", lines
    assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
    return "read to the end"


async def cut_before_the_first_token(client: httpx.AsyncClient, number: int) -> str:
    async with client.stream("POST", "/v1/completions", json=body(number, stream=True, max_tokens=500)):
        return "cut before the first token"


async def cut_in_mid_stream(client: httpx.AsyncClient, number: int) -> str:
    request = body(number, stream=True, max_tokens=500)
    async with client.stream("POST", "/v1/completions", json=request) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                break
    return "cut in mid-stream"


async def lose_patience(client: httpx.AsyncClient, number: int) -> str:
    request = body(number, stream=False, max_tokens=500)
    try:
        await client.post("/v1/completions", json=request, timeout=IMPATIENT_S)
    except httpx.TimeoutException:
        return "lost patience"
    raise AssertionError("500 tokens in a tenth of a second")


async def all_requests(url: str) -> Counter[str]:
    kinds = (cut_before_the_first_token, read_all, read_all, cut_in_mid_stream, read_all, read_all)
    kinds += (lose_patience, read_all, read_all)
    room = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(
        base_url=url, timeout=120, limits=httpx.Limits(max_connections=None)
    ) as client:

        async def one(number: int) -> str:
            async with room:
                return await kinds[number % len(kinds)](client, number)

        return Counter(await asyncio.gather(*map(one, range(REQUESTS))))


def test_cut_off_requests_leave_nothing_behind(server: RunningServer) -> None:
    def answer() -> str:
        request = {**body(0, stream=False), "temperature": 0}
        return str(httpx.post(f"{server.url}/v1/completions", json=request).json()["choices"][0]["text"])

    text = answer()  # and whatever is made once at a first request is there
    assert until(server.idle)
    before = Holdings.of(server)
    process = psutil.Process(server.process.pid)
    rss = process.memory_info().rss
    seen = server.metrics()

    ended = asyncio.run(all_requests(server.url))

    assert ended["read to the end"] == 333
    assert until(server.idle), server.metrics()
    now = server.metrics()
    assert now["pascaline_kv_pages_free"] + now["pascaline_kv_pages_cached"] == now["pascaline_kv_pages"]
    assert until(lambda: Holdings.of(server) == before), (Holdings.of(server), before)
    assert process.memory_info().rss - rss < MAX_RSS_GROWTH
    outcomes = {
        outcome: now.get(name, 0) - seen.get(name, 0)
        for outcome in ("length", "stop", "disconnect", "error")
        if (name := f'pascaline_requests_total{{outcome="{outcome}"}}')
    }
    assert outcomes["length"] == 333
    assert outcomes["error"] == outcomes["stop"] == 0
    # One that left before its first step was counted nowhere.
    assert ended["cut in mid-stream"] <= outcomes["disconnect"] <= REQUESTS - 333
    # The cut ones did not go on: 500 tokens each would be eighty thousand.
    assert now["pascaline_generated_tokens_total"] - seen["pascaline_generated_tokens_total"] < 10_000
    assert answer() == text


def test_lone_request_that_is_cut_off_is_gone_from_the_metrics(server: RunningServer) -> None:
    # Nobody else's step brings news of the engine afterwards.
    request = body(0, stream=True, max_tokens=500)
    with httpx.stream("POST", f"{server.url}/v1/completions", json=request) as answer:
        lines = answer.iter_lines()  # kept: an iterator that goes away closes the stream
        assert next(lines)
        assert server.metrics()["pascaline_sequences_running"] == 1
    assert until(server.idle), server.metrics()
