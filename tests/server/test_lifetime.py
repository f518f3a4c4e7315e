"""How a server starts and ends, with and without requests under way."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from running_server import RunningServer, until

Start = Callable[..., RunningServer]
SHUTTING_DOWN = "the server is shutting down"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers of the demo model that end with the test, whatever happened."""
    started: list[RunningServer] = []

    def one(*arguments: str) -> RunningServer:
        started.append(RunningServer(("demo", *arguments)))
        return started[-1]

    yield one
    for server in started:
        server.kill()


@contextlib.contextmanager
def stream(server: RunningServer, max_tokens: int) -> Iterator[Iterator[dict[str, Any]]]:
    """A streamed answer of that length; its events up to [DONE], the last of which may be an error."""
    body = {
        "model": "demo",
        "prompt": "Once upon a time",
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
    }
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=120) as answer:
        assert answer.status_code == 200
        yield events(answer)


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_sigterm_lets_answers_end_and_tells_those_that_cannot(start: Start) -> None:
    server = start("--port", "0")
    with stream(server, 6) as short, stream(server, 8000) as long:
        next(short), next(long)
        engine = server.engine
        engine.send_signal(signal.SIGTERM)  # a service manager signals every process
        server.process.send_signal(signal.SIGTERM)
        *_, last = short
        assert last["choices"][0]["finish_reason"] == "length"
        assert until(lambda: refused(server))  # nobody new comes in meanwhile
        *_, last = long
        assert (last["error"]["message"], last["error"]["type"]) == (SHUTTING_DOWN, "server_error")
    assert server.wait() == 0
    assert gone(engine)
    assert "Traceback" not in "".join(server.stderr)


def refused(server: RunningServer) -> bool:
    try:
        httpx.get(f"{server.url}/health")
    except httpx.TransportError:
        return True
    return False


def test_second_ctrl_c_does_not_wait(start: Start) -> None:
    server = start("--port", "0")
    with stream(server, 8000) as answer:
        next(answer)
        engine = server.engine
        server.interrupt()
        assert until(lambda: refused(server))
        assert next(answer)["choices"]  # the first one let it go on
        began = time.monotonic()
        server.interrupt()
        with contextlib.suppress(httpx.TransportError):
            *_, last = answer
            assert "error" in last
    assert server.wait() == 0
    assert time.monotonic() - began < 5
    assert gone(engine)
    assert "Traceback" not in "".join(server.stderr)


def test_engine_that_is_killed_is_reported_to_all(start: Start) -> None:
    server = start("--port", "0")
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    with stream(server, 8000) as first, stream(server, 8000) as second:
        next(first), next(second)
        server.engine.kill()
        for answer in (first, second):
            *_, last = answer
            assert last["error"]["type"] == "server_error"
            assert "ended by SIGKILL" in last["error"]["message"]
    health = httpx.get(f"{server.url}/health")
    assert (health.status_code, "SIGKILL" in health.json()["reason"]) == (503, True)
    assert server.metrics()["pascaline_engine_up"] == 0
    for request in ({"prompt": "x"}, {"prompt": "x", "stream": True}):
        answer = httpx.post(f"{server.url}/v1/completions", json={"model": "demo", **request}, timeout=5)
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    assert server.stop() == 0


def engines(pid: int) -> list[psutil.Process]:
    """The engine process of a server; libraries that it imports may start others, which end at once."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if "pascaline.engine.process" in child.cmdline() else []
    return found


def test_sigterm_while_loading(start: Start) -> None:
    server = start("--port", "0")
    assert until(lambda: bool(engines(server.process.pid)))
    [engine] = engines(server.process.pid)
    assert server.stop() == 0
    assert gone(engine)
    assert not [line for line in server.stderr if not line.startswith("loading weights")]


def test_key_short_context_early_clients_and_a_killed_server(start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start("--port", str(port), "--api-key", "sésame", "--max-model-len", "32")
    url = f"http://127.0.0.1:{port}"
    assert until(lambda: accepts(port))
    # Nothing is loaded yet: the first answer waits for it.
    assert httpx.get(f"{url}/health", timeout=60).status_code == 200

    key = {"Authorization": "Bearer sésame".encode()}
    with httpx.Client(base_url=url, timeout=60) as client:
        for headers in ({}, {"Authorization": "Bearer sesame"}, {"Authorization": "sésame".encode()}):
            for answer in (
                client.get("/v1/models", headers=headers),
                client.post("/v1/completions", headers=headers),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert client.get("/").status_code == client.get("/metrics").status_code == 200
        [model] = client.get("/v1/models", headers=key).json()["data"]
        assert model["max_model_len"] == 32

        def complete(**fields: Any) -> httpx.Response:
            return client.post(
                "/v1/completions", headers=key, json={"model": "demo", "temperature": 0, **fields}
            )

        full = complete(prompt=[504] * 28, max_tokens=100, ignore_eos=True).json()
        assert (full["choices"][0]["finish_reason"], full["usage"]["total_tokens"]) == ("length", 32)
        refusal = complete(prompt=[504] * 32)
        assert refusal.status_code == 400
        assert re.search(r"32 tokens .*context of 32 tokens", refusal.json()["error"]["message"])

    engine = server.engine
    server.process.kill()
    server.wait()
    assert until(lambda: gone(engine))


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
