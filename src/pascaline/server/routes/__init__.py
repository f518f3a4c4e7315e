"""One file an endpoint. A new endpoint is a file with a `router` and a line here."""

from __future__ import annotations

from pascaline.server.routes import chat_completions, completions, health, metrics, models, page

ROUTERS = (
    chat_completions.router,
    completions.router,
    models.router,
    health.router,
    metrics.router,
    page.router,
)
