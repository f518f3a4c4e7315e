"""The application: routes, errors, and the optional key."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from pascaline.llm.online import AsyncLLM
from pascaline.server.errors import install_error_handlers
from pascaline.server.generation import Service
from pascaline.server.metrics import ServerMetrics
from pascaline.server.routes import ROUTERS
from pascaline.server.schemas import error_body

PROTECTED = "/v1/"


def create_app(llm: AsyncLLM, served_name: str, api_key: str | None = None) -> FastAPI:
    """The ASGI application over a started engine.

    With `api_key`, everything under /v1/ wants `Authorization: Bearer <key>`.
    """
    app = FastAPI(title="Pascaline", docs_url=None, redoc_url=None)
    app.state.service = Service(llm, ServerMetrics(llm), served_name, int(time.time()))
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    if api_key is not None:
        app.middleware("http")(_require_key(api_key))
    return app


def _require_key(
    api_key: str,
) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    expected = f"Bearer {api_key}".encode()

    async def require_key(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.headers.get("authorization", "").encode()
        if request.url.path.startswith(PROTECTED) and not secrets.compare_digest(given, expected):
            message = "this server wants its API key: Authorization: Bearer <key>"
            return JSONResponse(
                error_body(message, "authentication_error", "invalid_api_key"), status_code=401
            )
        return await call_next(request)

    return require_key
