"""The engine as a process of its own: `python -m pascaline.engine.process FD`.

FD is one end of a socket pair that the starting process holds the other end of. The process ends
when told to, when its client goes away, or when the engine fails (after saying so).
"""

from __future__ import annotations

import queue
import signal
import socket
import sys
import threading
import traceback

import msgspec

from pascaline.core.errors import EngineError, PascalineError
from pascaline.core.progress import Progress
from pascaline.engine.core import EngineCore
from pascaline.engine.messages import (
    Abort,
    Failed,
    FrameBuffer,
    FromEngine,
    Shutdown,
    Start,
    StartProgress,
    StepOutputs,
    Submit,
    ToEngine,
    decode_to_engine,
    encode,
)

RECEIVE_BYTES = 1 << 16


class _Connection:
    """The client's messages in a queue, filled by a thread, so that the client never waits for a step."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self.inbox: queue.SimpleQueue[ToEngine | EngineError] = queue.SimpleQueue()
        threading.Thread(target=self._receive, name="engine-inbox", daemon=True).start()

    def send(self, message: FromEngine) -> bool:
        """False when nobody is there any more; the inbox then holds a `Shutdown`."""
        try:
            self._socket.sendall(encode(message))
        except OSError:
            self.inbox.put(Shutdown())
            return False
        return True

    def _receive(self) -> None:
        frames = FrameBuffer()
        try:
            while data := self._socket.recv(RECEIVE_BYTES):
                for body in frames.feed(data):
                    self.inbox.put(decode_to_engine(body))
        except OSError:
            pass  # as good as an end of file: the client is gone
        except (PascalineError, msgspec.MsgspecError) as error:
            self.inbox.put(EngineError(f"the engine was sent something that is no message: {error}"))
        self.inbox.put(Shutdown())


def serve(connection: _Connection) -> None:
    """Start the engine that the first message describes and run it until the end."""
    first = connection.inbox.get()
    if isinstance(first, EngineError):
        raise first
    if not isinstance(first, Start):
        return

    def report(progress: Progress) -> None:
        if not connection.send(StartProgress(progress)):
            sys.exit(0)  # nobody waits for the rest of the loading

    core = EngineCore(first.config, report)
    connection.send(core.ready)
    connection.send(StepOutputs(core.status()))
    while True:
        if not core.has_work and not _handle(core, connection.inbox.get()):
            return
        while not connection.inbox.empty():
            if not _handle(core, connection.inbox.get()):
                return
        # Without work it is the status alone: after an abort the client's would be out of date.
        connection.send(core.step())


def _handle(core: EngineCore, message: ToEngine | EngineError) -> bool:
    """Apply one message; False when it ends the engine."""
    if isinstance(message, EngineError):
        raise message
    if isinstance(message, Submit):
        core.submit(message)
    elif isinstance(message, Abort):
        core.abort(message)
    return not isinstance(message, Shutdown)


def main(descriptor: int) -> int:
    """Run until the end; returns the exit code."""
    # Service managers send SIGTERM to every process; the client decides when the engine ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    connection = _Connection(descriptor)
    try:
        serve(connection)
    except PascalineError as error:
        connection.send(Failed.of(error))
        return 1
    except Exception as error:  # the process boundary: whatever it was, the client is told
        traceback.print_exc()
        seen = f"the engine failed: {type(error).__name__}: {error}"
        connection.send(Failed.of(EngineError(seen, remedy="The traceback is in the server's log")))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
