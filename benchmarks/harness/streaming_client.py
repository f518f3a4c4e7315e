"""Clients of the server that take next to no processor time: one process, which sleeps while it is sent to.

Started as `python -m harness.streaming_client PORT`. Sockets wake it only at their end (or when
their buffers fill), and what came is read after the clock stopped.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time

from harness.json_lines import Answer, serve
from pascaline.core.errors import EngineError

_BUFFER_BYTES = 1 << 22
_RECEIVE_BYTES = 1 << 20


class Streams:
    """Streams of /v1/completions, all at once."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)

    def stream(self, bodies: list[dict[str, object]]) -> Answer:
        """Time from the first request to the end of the last stream, and what each was answered."""
        selector = selectors.DefaultSelector()
        received: dict[socket.socket, list[bytes]] = {}
        requests = [_request(body) for body in bodies]
        for _ in requests:
            connection = socket.create_connection(self._address)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _BUFFER_BYTES)
            selector.register(connection, selectors.EVENT_READ, connection)
            received[connection] = []
        began, cpu_began = time.perf_counter(), time.process_time()
        for connection, request in zip(received, requests, strict=True):
            connection.sendall(request)
        wakeups = 0
        while selector.get_map():
            for key, _ in selector.select():
                wakeups += 1
                data = key.data.recv(_RECEIVE_BYTES)
                received[key.data].append(data)
                if not data:
                    selector.unregister(key.fileobj)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        for connection in received:
            connection.close()
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "wakeups": wakeups,
            "tokens": [_completion_tokens(b"".join(parts)) for parts in received.values()],
        }


def check_whole(tokens: list[int], streams: int, each: int) -> None:
    """Hold the tokens of all streams against what was asked for.

    Raises
    ------
    EngineError : some stream has fewer, or more.
    """
    if tokens != [each] * streams:
        raise EngineError(f"streams of {tokens} tokens", expected=f"{streams} of {each}")


def _request(body: dict[str, object]) -> bytes:
    content = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content


def _completion_tokens(answer: bytes) -> int:
    """As the stream's last part says; 0 for an answer that is no whole stream."""
    found = re.search(rb'"completion_tokens":(\d+)', answer)
    whole = answer.startswith(b"HTTP/1.1 200") and b"data: [DONE]" in answer
    return int(found[1]) if found and whole else 0


def main() -> None:
    serve({}, {"stream": Streams(int(sys.argv[1])).stream})


if __name__ == "__main__":
    main()
