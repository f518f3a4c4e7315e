"""GET /health: 200 while the engine runs, 503 with the reason afterwards."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pascaline.server.generation import service_of

router = APIRouter()


@router.api_route("/health", methods=["GET", "HEAD"])
async def health(request: Request) -> JSONResponse:
    failure = service_of(request).llm.failure
    if failure is None:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "failed", "reason": str(failure)}, status_code=503)
