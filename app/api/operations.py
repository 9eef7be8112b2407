"""Routes for those who run the service: is it alive, is it ready, what does it do, what is it."""

import platform
from importlib.metadata import version

from fastapi import APIRouter, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from app import __version__
from app.api.dependencies import Model, Server, json_response
from app.api.service_answers import InfoAnswer, ObjectiveAnswer, StateAnswer
from app.api.views import model_answer
from app.domain import Objective
from app.errors import Draining, NotReady

VERSIONED = ("torch", "transformers", "tokenizers", "safetensors", "fastapi", "uvicorn", "pydantic", "numpy")

router = APIRouter(tags=["operations"])


@router.get("/livez", response_model=StateAnswer)
async def livez(server: Server) -> Response:
    """Say whether the process is worth keeping: loading, or its engine answered within the watchdog's time."""
    if server.model is not None and not server.model.service.alive():
        raise NotReady("the engine has not answered within the watchdog's time")
    return json_response({"status": "alive"})


@router.get("/readyz", response_model=StateAnswer)
async def readyz(server: Server) -> Response:
    """Say whether requests should be sent here: loaded, warmed, checked, not draining, and with room in the queue."""
    model = server.loaded_model()
    if server.is_draining:
        raise Draining("the service is shutting down")
    if not model.service.alive():
        raise NotReady("the engine has not answered within the watchdog's time")
    if model.is_full():
        raise NotReady("the queue is full")
    return json_response({"status": "ready"})


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
async def metrics(server: Server) -> Response:
    """Return every metric in Prometheus' text format."""
    return Response(generate_latest(server.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/info", response_model=InfoAnswer)
async def info(server: Server, model: Model) -> Response:
    """Return what is served: the model, its objectives and heads, the limits, the versions."""
    served = model.info
    default = model.default_direction
    answer: InfoAnswer = {
        "model": {
            **model_answer(served),
            "device": served.device,
            "quantization": served.quantization,
            "description": served.description,
            "has_gating": served.has_gating,
        },
        "objectives": [_objective(objective) for objective in served.objectives],
        "composites": {name: dict(weights) for name, weights in served.composites.items()},
        "heads": [{"name": head.name, "classes": head.classes, "statistics": head.statistics} for head in served.heads],
        "default_preference": None if default is None else dict(default.weights),
        "limits": {
            "max_conversation_tokens": served.max_conversation_tokens,
            "max_body_bytes": server.limits.max_body_bytes,
            "max_items": server.limits.max_items,
        },
        "versions": dict(server.versions),
    }
    return json_response(answer)


def versions() -> dict[str, str]:
    """Return the versions of everything that may change a score or an answer."""
    libraries = {name: version(name) for name in VERSIONED}
    return {"armoserve": __version__, "python": platform.python_version(), **libraries}


def _objective(objective: Objective) -> ObjectiveAnswer:
    native = objective.native
    return {
        "name": objective.name,
        "description": objective.description,
        "source": objective.source,
        "native": None if native is None else {"slope": native.slope, "intercept": native.intercept},
        "has_reference": bool(objective.quantiles),
    }
