"""`POST /score/stream`: the route, and its options, which stand in the URL since the body is lines of items."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, get_args

from fastapi import APIRouter, Depends, Request, Response

from app.api.dependencies import Model, Server, check_encoding, timeout_of
from app.api.directions import directions_of, scalar_direction
from app.api.line_stream import MEDIA_TYPE, LineStream
from app.api.ndjson import LineScoring
from app.api.query_options import one_of, refuse, weights_of
from app.api.schemas import MOST_DIRECTIONS, ScoreOptions
from app.domain import Truncation
from app.preferences import shown
from app.serving.jobs import Priority

OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "preference": "A direction, `name:weight,name:weight`, as one of /score's `preferences`; may be repeated.",
        "composite": "One of /score's `composites`, `name=objective:weight,objective:weight`; may be repeated.",
        "truncate": "As /score's: `never` or `prompt_left`.",
        "priority": "`bulk`, which fills what others leave, or `interactive`.",
    }
)
REPEATABLE: Final = frozenset({"preference", "composite"})
EXAMPLE: Final = '{"id": "a", "prompt": "Name a colour.", "responses": ["Blue.", "No."]}\n'

router = APIRouter(tags=["scoring"])


def stream_options_of(request: Request) -> ScoreOptions:
    """Read /score's options off the URL. A stream is bulk unless it says otherwise: nobody waits for its every line.

    Raises:
        MalformedBody: an option that there is none of, one given twice, or a value that is not allowed.
    """
    given: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if name not in OPTIONS:
            refuse(shown(name), f"there is no such option; the query takes {', '.join(OPTIONS)}")
        if name in given and name not in REPEATABLE:
            refuse(name, "is given twice")
        given.setdefault(name, []).append(value.strip())
    directions = given.get("preference", [])
    if len(directions) > MOST_DIRECTIONS:
        refuse("preference", f"is given more than {MOST_DIRECTIONS} times")
    return ScoreOptions.model_validate(
        {
            "truncate": one_of("truncate", given.get("truncate", ["never"])[0], get_args(Truncation)),
            "priority": one_of("priority", given.get("priority", ["bulk"])[0], get_args(Priority)),
            "composites": _composites(given.get("composite", [])),
            "preferences": [weights_of("preference", one) for one in directions] or None,
        }
    )


def _composites(given: list[str]) -> dict[str, Mapping[str, float]]:
    composites: dict[str, Mapping[str, float]] = {}
    for one in given:
        name, _, weights = (word.strip() for word in one.partition("="))
        if not name:
            refuse("composite", "allowed are name=objective:weight,objective:weight")
        if name in composites:
            refuse("composite", f"names {shown(name)} twice")
        composites[name] = weights_of("composite", weights)
    return composites


@router.post(
    "/score/stream",
    response_class=Response,
    responses={
        200: {
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
            "headers": {
                "X-Model-Revision": {"schema": {"type": "string"}, "description": "Of the model that answers."}
            },
        }
    },
    openapi_extra={
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": "string"}, "description": meaning}
            for name, meaning in OPTIONS.items()
        ],
        "requestBody": {
            "required": True,
            "description": "A line each: an item of /score with an `id` of its own. X-Timeout-Ms is each line's own.",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE}},
        },
    },
)
async def score_stream(
    request: Request,
    server: Server,
    model: Model,
    options: Annotated[ScoreOptions, Depends(stream_options_of)],
    timeout: Annotated[float | None, Depends(timeout_of)],
) -> Response:
    """Score items line by line while they come: one answer a line, in the order in which they are done.

    A line is an item of /score with an `id` of its own; its answer has that id and the line's number. A line at fault
    is answered with its error, and the others go on.
    """
    check_encoding(request)
    directions = directions_of(options, model.info)
    scalar = scalar_direction(directions, model, way="give ?preference=name:weight,name:weight over")
    scoring = LineScoring(
        model,
        server.limits.max_body_bytes,
        truncation=options.truncate,
        priority=options.priority,
        scalar=scalar,
        directions=directions,
        timeout_seconds=timeout,
    )
    return LineStream(scoring, server)
