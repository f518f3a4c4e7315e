"""Server-sent events whose producer ends when the client goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DONE = b"[DONE]"


class EventStream(Response):
    """Sends each object that `events` yields as one `data:` line, then `data: [DONE]`.

    `events` is closed whatever happens: at its end, at an error, or as soon as the client
    disconnects, also in the middle of waiting for the next event.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, object], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        sender = asyncio.create_task(self._send_all(send))
        watcher = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({sender, watcher}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sender.cancel()
            watcher.cancel()
            results = await asyncio.gather(sender, watcher, return_exceptions=True)
            await self._events.aclose()
        failure = results[0]
        if isinstance(failure, Exception) and not isinstance(failure, OSError):
            raise failure

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for event in self._events:
            await self._send_data(send, msgspec.json.encode(event))
        await self._send_data(send, DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_data(self, send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": b"data: %b\n\n" % data, "more_body": True})


async def disconnected(receive: Receive) -> None:
    """Return when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
