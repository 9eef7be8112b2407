"""`/openapi.json` and `/docs`. Examples fit the weights that are served, so each works when it is pasted.

Bodies are read by us and not by the framework, so their schemas are added to its document here. The page's script
and style come from this server: no third-party host is asked for anything.
"""

from collections.abc import Mapping
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, HTMLResponse
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from app.api.dependencies import TIMEOUT_HEADER
from app.api.documented_problems import problem_answers
from app.api.examples import examples_for, options_for
from app.api.schemas import MoslimBody, ObjectivesBody, ScoreBody, TokenizeBody
from app.api.service_answers import ProblemAnswer
from app.api.trainers.get_reward import RewardBody
from app.api.trainers.llamafactory import ScoreEvaluationBody
from app.api.trainers.nim import ChatBody
from app.api.trainers.options import query_parameters
from app.api.trainers.rerank import RerankBody
from app.api.trainers.vllm import ClassifyBody, EmbeddingsBody, PoolingBody
from app.domain import ModelInfo

REF_TEMPLATE = "#/components/schemas/{model}"
TRAINER_BODIES: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "/get_reward": RewardBody,
        "/v1/score/evaluation": ScoreEvaluationBody,
        "/classify": ClassifyBody,
        "/pooling": PoolingBody,
        "/v1/embeddings": EmbeddingsBody,
        "/v1/chat/completions": ChatBody,
        "/rerank": RerankBody,
        "/v1/rerank": RerankBody,
        "/v2/rerank": RerankBody,
    }
)
BODIES: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "/score": ScoreBody,
        "/objectives": ObjectivesBody,
        "/moslim-classify": MoslimBody,
        "/tokenize": TokenizeBody,
        **TRAINER_BODIES,
    }
)
HEADERS: tuple[dict[str, Any], ...] = (
    {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "schema": {"type": "number", "minimum": 0.001, "maximum": 999_999_999},
        "description": "Milliseconds after which the answer is of no use: work that has not begun by then is dropped.",
    },
    {
        "name": "X-Request-Id",
        "in": "header",
        "schema": {"type": "string"},
        "description": "An id of the caller's own, which comes back in the answer, in errors and in the log. "
        "One that is not up to 128 of A-Z a-z 0-9 . _ : / + = - is replaced.",
    },
)
SECURITY_SCHEMES: Mapping[str, dict[str, str]] = MappingProxyType(
    {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
    }
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>armoserve</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START_SCRIPT = """SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
KEPT: Mapping[str, str] = MappingProxyType({"Cache-Control": "private, max-age=3600"})
"""The page's script and style are large and the same for everybody."""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> Response:
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": PAGE_POLICY})


@router.get("/docs/start.js")
async def start_script() -> Response:
    return Response(START_SCRIPT, media_type="text/javascript")


@router.get("/docs/swagger-ui-bundle.js")
async def swagger_script() -> Response:
    return FileResponse(_swagger_file("swagger-ui-bundle.js"), headers=KEPT)


@router.get("/docs/swagger-ui.css")
async def swagger_style() -> Response:
    return FileResponse(_swagger_file("swagger-ui.css"), headers=KEPT)


def openapi_document(app: FastAPI, info: ModelInfo | None) -> dict[str, Any]:
    """Return the OpenAPI document; with `info`, its examples use the names of the weights that are served."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(_body_schemas())
    document["components"]["securitySchemes"] = dict(SECURITY_SCHEMES)
    document["security"] = [*({name: []} for name in SECURITY_SCHEMES), {}]
    examples = examples_for(info)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            has_body = path in BODIES or "requestBody" in operation
            problems = problem_answers(path, has_body=has_body, is_trainers=path in TRAINER_BODIES)
            operation["responses"] |= problems
            if str(HTTPStatus.UNAUTHORIZED) not in problems:
                operation["security"] = []
            if path in BODIES:
                operation["parameters"] = _parameters(path, info)
                operation["requestBody"] = _request_body(BODIES[path], examples[path])
            elif has_body:  # lines, which the route itself describes
                operation["parameters"] += HEADERS
    return document


def _parameters(path: str, info: ModelInfo | None) -> list[dict[str, Any]]:
    headers = HEADERS[1:] if path == "/tokenize" else HEADERS
    return [*query_parameters(options_for(path, info)), *headers] if path in TRAINER_BODIES else list(headers)


def _body_schemas() -> dict[str, Any]:
    _, bodies = models_json_schema(
        [(body, "validation") for body in dict.fromkeys(BODIES.values())], ref_template=REF_TEMPLATE
    )
    problem = TypeAdapter(ProblemAnswer).json_schema(ref_template=REF_TEMPLATE)
    return {**bodies["$defs"], **problem.pop("$defs"), "ProblemAnswer": problem}


def _request_body(body: type[BaseModel], example: Mapping[str, Any]) -> dict[str, Any]:
    schema = {"$ref": REF_TEMPLATE.format(model=body.__name__)}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": dict(example)}}}


def _swagger_file(name: str) -> Path:
    """Return a file of Swagger UI, which the package fastapi-offline carries."""
    package = find_spec("fastapi_offline")
    if package is None or package.origin is None:
        raise FileNotFoundError("the package fastapi-offline is not installed")
    return Path(package.origin).parent / "static" / name
