"""GET /: the chat page, and its files under /static."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

WEB = Path(__file__).parent.parent / "web"
FILES = frozenset(path.name for path in WEB.iterdir())
HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}

router = APIRouter()


@router.api_route("/", methods=["GET", "HEAD"])
async def page() -> FileResponse:
    return FileResponse(WEB / "index.html", headers=HEADERS)


@router.get("/static/{name}")
async def static(name: str) -> FileResponse:
    if name not in FILES:
        raise HTTPException(404, f"no such file: {name}")
    return FileResponse(WEB / name, headers=HEADERS)
