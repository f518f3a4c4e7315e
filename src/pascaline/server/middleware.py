"""What happens to every request before its route: the key is checked, its size is limited.

Plain ASGI: Starlette's `middleware("http")` puts tasks and queues of its own between a route and
its client, and a client that leaves would be noticed late.
"""

from __future__ import annotations

import secrets

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pascaline.server.schemas import error_body

PROTECTED = "/v1/"
MAX_BODY_BYTES = 32 << 20
"""About eight million tokens of text; the largest body that is read into memory."""


class RequireKey:
    """Everything under /v1/ wants `Authorization: Bearer <key>`."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                message = "this server wants its API key: Authorization: Bearer <key>"
                body = error_body(message, "authentication_error", "invalid_api_key")
                headers = {"WWW-Authenticate": "Bearer"}
                await JSONResponse(body, status_code=401, headers=headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class LimitBody:
    """Bodies of more than `MAX_BODY_BYTES` are refused, before they are read where they say their size."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES or (announced.isdecimal() and int(announced) > MAX_BODY_BYTES):
                raise HTTPException(413, f"the request's body has more than {MAX_BODY_BYTES} bytes")
            return message

        await self._app(scope, limited, send)
