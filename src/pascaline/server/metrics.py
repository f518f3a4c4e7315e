"""Prometheus metrics: what the engine says of itself, and what requests experience."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pascaline.llm.online import AsyncLLM

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class _EngineCollector(Collector):
    """Reads the engine's latest status when asked; nothing is kept twice."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm

    def collect(self) -> Iterator[Metric]:
        yield _gauge("engine_up", "1 while the engine process runs", float(self._llm.failure is None))
        yield _gauge("requests_live", "requests that have not finished", self._llm.live_requests)
        yield _gauge("server_tasks", "asyncio tasks in the server", len(asyncio.all_tasks()))
        status = self._llm.status
        if status is None:
            return
        held = status.pages_total - status.pages_free - status.pages_cached
        yield _gauge("sequences_running", "sequences in the batch", status.running)
        yield _gauge("sequences_waiting", "sequences that wait for room", status.waiting)
        yield _gauge("kv_pages", "KV pages in the pool", status.pages_total)
        yield _gauge("kv_pages_free", "KV pages that nobody holds", status.pages_free)
        yield _gauge("kv_pages_cached", "KV pages that the prefix tree remembers", status.pages_cached)
        yield _gauge("kv_pages_held", "KV pages that only sequences hold", held)
        yield _gauge("step_seconds", "duration of the latest step", status.step_s)
        yield _counter("steps", "steps run", status.steps)
        yield _counter("preemptions", "sequences sent back to wait for lack of pages", status.preemptions)
        yield _counter("prompt_tokens", "tokens of computed prompts", status.prompt_tokens)
        yield _counter(
            "cached_prompt_tokens", "prompt tokens found in the prefix tree", status.cached_prompt_tokens
        )
        yield _counter("generated_tokens", "tokens sampled", status.generated_tokens)
        yield _counter("drafted_tokens", "tokens computed ahead of what is sampled", status.drafted_tokens)
        yield _counter("accepted_tokens", "drafted tokens that were sampled, too", status.accepted_tokens)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pascaline_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"pascaline_{name}", text, value=value)


class ServerMetrics:
    """The server's registry. One per application."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(llm))
        self.requests = Counter(
            "pascaline_requests",
            "requests by how they ended: stop, length, disconnect or error",
            ["outcome"],
            registry=self._registry,
        )
        self.time_to_first_token = Histogram(
            "pascaline_time_to_first_token_seconds",
            "from a request's arrival to its first token",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.request_duration = Histogram(
            "pascaline_request_duration_seconds",
            "from a request's arrival to its last token",
            buckets=SECONDS,
            registry=self._registry,
        )

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
