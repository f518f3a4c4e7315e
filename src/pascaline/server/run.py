"""From a model reference to a serving process, and its orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import uvicorn

from pascaline.checkpoint.reference import resolve
from pascaline.core.errors import ConfigError
from pascaline.core.progress import ProgressCallback
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Ready
from pascaline.llm.model_text import ModelText
from pascaline.llm.online import AsyncLLM
from pascaline.server.app import create_app

GRACE_S = 10
"""How long running answers may go on after SIGTERM."""

LAST_WORDS_S = 2
"""How long clients have after that to read why their answer ends."""


@dataclass(frozen=True)
class ServerConfig:
    """Where to listen. `engine.model_path` is filled in once the model has been found."""

    model: str
    host: str
    port: int
    api_key: str | None
    engine: EngineConfig


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet.

    Raises
    ------
    ConfigError : the port is in use or not allowed, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            # A listening socket elsewhere makes the bind fail only once we listen, too.
            bound.listen(socket.SOMAXCONN)
        except OSError:
            bound.close()
            raise
    except (OSError, OverflowError) as error:
        code = getattr(error, "errno", None)
        if code == errno.EADDRINUSE:
            raise ConfigError(
                f"port {port} on {host} is in use by another program",
                remedy=f"Choose another: --port {port + 1}",
            ) from None
        if code == errno.EACCES:
            raise ConfigError(f"port {port} needs more rights", remedy="Choose a port above 1023") from None
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}",
            expected="an address of this machine, such as 127.0.0.1 or 0.0.0.0, and a port below 65536",
        ) from None
    return bound


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: they end the process before the engine is stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def run_server(
    config: ServerConfig, report: ProgressCallback, on_ready: Callable[[str, Ready], None]
) -> None:
    """Serve until SIGINT or SIGTERM, which let running answers end; a second one does not wait.

    The port is taken first, so that a mistake there does not wait for the model; requests that
    come early wait until the model is loaded. `on_ready(url, ready)` is called then.
    """
    if config.api_key is not None and not config.api_key.strip():
        raise ConfigError("the API key is empty", expected="some characters", remedy="Or leave --api-key out")
    with bind(config.host, config.port) as listener:
        # Outside of the event loop, where Ctrl-C ends a download at once.
        resolved = resolve(config.model, report, with_weights=config.engine.load_format != "dummy")
        llm = AsyncLLM(ModelText.load(resolved.path, config.engine.load_format))
        engine = replace(config.engine, model_path=str(resolved.path))
        app = create_app(llm, resolved.served_name, config.api_key)
        host = f"[{config.host}]" if ":" in config.host else config.host
        url = f"http://{host}:{listener.getsockname()[1]}"

        async def serve() -> None:
            server = _Server(
                uvicorn.Config(
                    app,
                    lifespan="off",
                    log_level="warning",
                    access_log=False,
                    timeout_graceful_shutdown=GRACE_S + LAST_WORDS_S,
                    server_header=False,
                )
            )

            async def work() -> None:
                on_ready(url, await llm.start(engine, report))
                await server.serve(sockets=[listener])

            working = asyncio.create_task(work())
            loop = asyncio.get_running_loop()

            def on_signal() -> None:
                if server.started and not server.should_exit:
                    server.should_exit = True
                    loop.call_later(GRACE_S, llm.end_requests)
                else:  # nothing is running yet, or this is the second signal
                    working.cancel()
                    llm.kill()

            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, on_signal)
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    await working
            finally:
                await llm.stop()

        asyncio.run(serve())
