"""Clients of a server whose requests come at random.

    python -m harness.arrivals_client PORT MODEL VOCABULARY

Each of N streams sends one request after the other, with pauses of an exponential distribution between them:
arrivals of a finite number of sources, Poisson's where pauses are long. Prompts are random token ids, of
random lengths, as are the answers'.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, field

from harness.json_lines import Answer, serve

PROMPT_TOKENS = (64, 512)
ANSWER_TOKENS = (32, 192)
PAUSE_S = 0.1
"""The mean."""
_SHOWN = 5
_WARM_SHARE = 0.2
"""Of the time, at its beginning: not counted."""


@dataclass
class _Seen:
    """Times of a run, since its beginning."""

    first_s: list[tuple[float, float]] = field(default_factory=list)
    """When a request was sent, and how long its first token took."""
    gaps_s: list[tuple[float, float]] = field(default_factory=list)
    """When a token came, and how long after the one before it."""
    token_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Arrivals:
    """Of one server."""

    def __init__(self, port: int, model: str, vocabulary: int) -> None:
        self._port = port
        self._model = model
        self._vocabulary = vocabulary

    def run(self, streams: int, seconds: float) -> Answer:
        """What so many streams see in so many seconds, and until the last answer has ended."""
        seen = _Seen()
        asyncio.run(self._all(streams, seconds, seen))
        begin = _WARM_SHARE * seconds
        tokens = sum(begin <= at < seconds for at in seen.token_s)
        first = [took for sent, took in seen.first_s if begin <= sent < seconds]
        gaps = [gap for at, gap in seen.gaps_s if begin <= at < seconds]
        return {
            "streams": streams,
            "tokens_per_s": tokens / (seconds - begin),
            "requests": len(first),
            "first_token_s": _quantiles(first),
            "between_tokens_s": _quantiles(gaps),
            "failed": seen.failed[:_SHOWN],
        }

    async def _all(self, streams: int, seconds: float, seen: _Seen) -> None:
        began = time.perf_counter()
        await asyncio.gather(*(self._stream(number, began, seconds, seen) for number in range(streams)))

    async def _stream(self, number: int, began: float, seconds: float, seen: _Seen) -> None:
        chance = random.Random(number)
        while True:
            await asyncio.sleep(chance.expovariate(1 / PAUSE_S))
            if time.perf_counter() - began >= seconds:
                return
            try:
                await self._request(chance, began, seen)
            except (OSError, ValueError) as error:
                seen.failed.append(f"{type(error).__name__}: {error}"[:200])

    async def _request(self, chance: random.Random, began: float, seen: _Seen) -> None:
        """Raises ValueError for an answer that is no whole stream."""
        prompt = [chance.randrange(self._vocabulary) for _ in range(chance.randint(*PROMPT_TOKENS))]
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": chance.randint(*ANSWER_TOKENS),
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
        }
        content = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        sent = time.perf_counter() - began
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content
        )
        status = await reader.readline()
        if b" 200 " not in status:
            raise ValueError(f"the server answers {status.decode(errors='replace').strip()}")
        last = None
        is_whole = False
        async for line in reader:
            if not line.startswith(b"data: "):
                continue
            now = time.perf_counter() - began
            if line.startswith(b"data: [DONE]"):
                is_whole = True
                continue
            event = json.loads(line[len(b"data: ") :])
            if not any(choice["text"] for choice in event.get("choices", ())):
                continue
            seen.token_s.append(now)
            if last is None:
                seen.first_s.append((sent, now - sent))
            else:
                seen.gaps_s.append((now, now - last))
            last = now
        writer.close()
        if not is_whole:
            raise ValueError("a stream broke off")


def _quantiles(values: list[float]) -> dict[str, float]:
    """Median and 99th of a hundred; nothing of fewer than two values."""
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98]}


def main() -> None:
    port, model, vocabulary = sys.argv[1:]
    serve({}, {"run": Arrivals(int(port), model, int(vocabulary)).run})


if __name__ == "__main__":
    main()
