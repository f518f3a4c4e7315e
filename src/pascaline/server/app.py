"""The application: routes, errors, and the optional key."""

from __future__ import annotations

import time

from fastapi import FastAPI

from pascaline.llm.online import AsyncLLM
from pascaline.server.errors import install_error_handlers
from pascaline.server.generation import Service
from pascaline.server.metrics import ServerMetrics
from pascaline.server.middleware import LimitBody, RequireKey
from pascaline.server.routes import ROUTERS


def create_app(llm: AsyncLLM, served_name: str, api_key: str | None = None) -> FastAPI:
    """The ASGI application over an engine; it answers once that has started.

    With `api_key`, everything under /v1/ wants `Authorization: Bearer <key>`.
    """
    app = FastAPI(title="Pascaline", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = Service(llm, ServerMetrics(llm), served_name, int(time.time()))
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(LimitBody)
    if api_key is not None:
        app.add_middleware(RequireKey, api_key=api_key)
    return app
