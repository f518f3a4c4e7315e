"""Errors as OpenAI's clients expect them: {"error": {message, type, param, code}}."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from pascaline.core.errors import EngineError, PascalineError
from pascaline.server.schemas import ErrorType, error_body


def model_not_found(name: str, served_name: str) -> JSONResponse:
    message = f"the model {name!r} is not served here; {served_name!r} is"
    return JSONResponse(error_body(message, "not_found_error", "model_not_found"), status_code=404)


def pascaline_error_body(error: PascalineError) -> tuple[int, dict[str, object]]:
    """HTTP status and body: the engine's failures are 503, all else is the client's to mend."""
    if isinstance(error, EngineError):
        return 503, error_body(str(error), "server_error")
    return 400, error_body(str(error), "invalid_request_error")


def install_error_handlers(app: FastAPI) -> None:
    """Answer every error of the application in OpenAI's form."""

    async def on_pascaline_error(_: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, PascalineError):
            raise error
        status, body = pascaline_error_body(error)
        return JSONResponse(body, status_code=status)

    async def on_invalid_body(_: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        problems = "; ".join(_describe(item) for item in error.errors()[:5])
        return JSONResponse(error_body(problems, "invalid_request_error"), status_code=400)

    async def on_http_error(_: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        kind: ErrorType = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        # 405 must name the methods that are allowed.
        return JSONResponse(
            error_body(str(error.detail), kind), status_code=error.status_code, headers=error.headers
        )

    async def on_anything_else(_: Request, error: Exception) -> JSONResponse:
        message = f"the server failed: {type(error).__name__}; its log has the traceback"
        return JSONResponse(error_body(message, "server_error"), status_code=500)

    app.add_exception_handler(Exception, on_anything_else)
    app.add_exception_handler(PascalineError, on_pascaline_error)
    app.add_exception_handler(RequestValidationError, on_invalid_body)
    app.add_exception_handler(HTTPException, on_http_error)


def _describe(problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"] if part != "body"]
    if problem["type"] == "json_invalid":
        return f"the body is not valid JSON: {problem['ctx']['error']} at character {location[-1]}"
    name = ".".join(location)
    if not name and problem["type"] in ("missing", "model_attributes_type", "dict_type"):
        return "the body is not a JSON object (expected one, and the header Content-Type: application/json)"
    if problem["type"] == "extra_forbidden":
        return f"unknown field {name!r}"
    return f"{name}: {problem['msg']}" if name else str(problem["msg"])
