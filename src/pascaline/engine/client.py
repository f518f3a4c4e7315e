"""The other end of the engine process, for asyncio programs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable

from pascaline.core.errors import EngineError, PascalineError
from pascaline.core.progress import ProgressCallback
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import (
    Failed,
    FrameBuffer,
    Ready,
    Shutdown,
    Start,
    StartProgress,
    StepOutputs,
    ToEngine,
    decode_from_engine,
    encode,
)

RECEIVE_BYTES = 1 << 16
STOP_TIMEOUT_S = 5.0


class EngineProcess:
    """Starts an engine process and talks to it.

    `on_step` is called with what each step produced; `on_failure` once, when the engine has gone
    without being told to. Both run on the event loop.
    """

    def __init__(
        self, on_step: Callable[[StepOutputs], None], on_failure: Callable[[PascalineError], None]
    ) -> None:
        self._on_step = on_step
        self._on_failure = on_failure
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self, config: EngineConfig, report: ProgressCallback) -> Ready:
        """Start the process and wait until it serves.

        Raises
        ------
        PascalineError : what the engine found wrong, or that it died on the way.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, our own interpreter
                # -P: a queue.py in the user's folder must not stand in for the standard library's.
                [sys.executable, "-P", "-m", "pascaline.engine.process", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C at the terminal is for us; we decide when the engine ends
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._receiver = asyncio.create_task(self._receive(reader, ready, report))
        self.send(Start(config))
        try:
            return await ready
        except BaseException:
            self.kill()  # while it loads, it does not listen
            await self.stop()
            raise

    def send(self, message: ToEngine) -> None:
        """Send without waiting. A message to an engine that has gone is dropped."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(message))

    def kill(self) -> None:
        """End the process now; `stop` is still to be called."""
        self._stopping = True
        if self._process is not None:
            self._process.kill()

    async def stop(self) -> None:
        """End the process, gently at first; returns when it is gone."""
        self._stopping = True
        self.send(Shutdown())
        if self._writer is not None:
            with contextlib.suppress(OSError):
                await asyncio.wait_for(self._writer.drain(), STOP_TIMEOUT_S)
        process = self._process
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        if self._writer is not None:
            self._writer.close()
        if self._receiver is not None:
            self._receiver.cancel()
            await asyncio.gather(self._receiver, return_exceptions=True)

    async def _receive(
        self, reader: asyncio.StreamReader, ready: asyncio.Future[Ready], report: ProgressCallback
    ) -> None:
        frames = FrameBuffer()
        failure: PascalineError | None = None
        try:
            while data := await reader.read(RECEIVE_BYTES):
                for body in frames.feed(data):
                    message = decode_from_engine(body)
                    if isinstance(message, StepOutputs):
                        self._on_step(message)
                    elif isinstance(message, StartProgress):
                        report(message.progress)
                    elif isinstance(message, Failed):
                        failure = message.error()
                    elif not ready.done():
                        ready.set_result(message)
        except OSError:
            pass  # as good as an end of file: the engine is gone
        except Exception as wrong:  # nobody waits for this task: unsaid, requests would wait for ever
            traceback.print_exc()
            if self._process is not None:
                self._process.kill()
            failure = EngineError(f"the engine's messages cannot be handled: {type(wrong).__name__}: {wrong}")
        error = failure or await self._cause_of_death()
        if not ready.done():
            ready.set_exception(error)
        elif not self._stopping:
            self._on_failure(error)

    async def _cause_of_death(self) -> EngineError:
        assert self._process is not None  # noqa: S101 - set before this task starts
        code = await asyncio.to_thread(self._process.wait)
        if code >= 0:
            return EngineError(f"the engine process ended with exit code {code}")
        name = signal.Signals(-code).name
        remedy = "The system may have run out of memory (see dmesg)" if name == "SIGKILL" else ""
        return EngineError(f"the engine process was ended by {name}", remedy=remedy)
