"""GET /v1/models: the one model that is served."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from pascaline.server.errors import model_not_found
from pascaline.server.generation import Service, service_of

router = APIRouter()


@router.get("/v1/models")
async def models(request: Request) -> JSONResponse:
    return JSONResponse({"object": "list", "data": [_describe(service_of(request))]})


@router.get("/v1/models/{name:path}")
async def model(name: str, request: Request) -> JSONResponse:
    service = service_of(request)
    if name != service.served_name:
        return model_not_found(name, service.served_name)
    return JSONResponse(_describe(service))


def _describe(service: Service) -> dict[str, object]:
    return {
        "id": service.served_name,
        "object": "model",
        "created": service.created,
        "owned_by": "pascaline",
        "max_model_len": service.llm.ready.max_model_len,
    }
