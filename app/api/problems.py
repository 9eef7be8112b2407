"""Errors as RFC 9457 problem documents: the one table of statuses. It knows no route.

A problem never carries text of prompts or responses: messages are written where errors are raised, and what
nobody foresaw is answered without its message.
"""

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil
from types import MappingProxyType
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from app import errors
from app.api.request_context import request_id_of
from app.serving.record import current_record

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_JITTER = 0.5
"""Callers turned away together come back spread over half their waiting time, not as one herd."""


@dataclass(frozen=True, slots=True)
class Problem:
    """How one kind of error looks from outside."""

    status: int
    type: str
    title: str


PROBLEMS: Mapping[type[errors.ArmoserveError], Problem] = MappingProxyType(
    {
        errors.InvalidConversation: Problem(400, "invalid-conversation", "The conversation cannot be scored"),
        errors.UnknownName: Problem(400, "unknown-name", "These weights do not have that name"),
        errors.PreferenceRequired: Problem(400, "preference-required", "These weights need a preference"),
        errors.ConflictingOptions: Problem(400, "conflicting-options", "Options exclude each other"),
        errors.Unauthorized: Problem(401, "unauthorized", "A valid key is needed"),
        errors.StreamStalled: Problem(408, "stream-stalled", "The stream stood still"),
        errors.TooManyTokens: Problem(413, "too-many-tokens", "Too many tokens"),
        errors.BodyTooLarge: Problem(413, "body-too-large", "The body is too large"),
        errors.MalformedBody: Problem(422, "malformed-body", "The request does not fit"),
        errors.Overloaded: Problem(429, "overloaded", "Too much work is waiting"),
        errors.TrainerOverloaded: Problem(503, "overloaded", "Too much work is waiting"),
        errors.NotInTheseWeights: Problem(501, "not-in-these-weights", "These weights cannot do that"),
        errors.NotReady: Problem(503, "not-ready", "Not ready yet"),
        errors.Draining: Problem(503, "draining", "Shutting down"),
        errors.DeadlineExceeded: Problem(504, "deadline-exceeded", "The deadline passed"),
        errors.InferenceFailed: Problem(500, "inference-failed", "The model failed"),
        errors.DeviceOutOfMemory: Problem(500, "inference-failed", "The model failed"),
        errors.NonFiniteReadout: Problem(500, "inference-failed", "The model failed"),
        errors.DevicePoisoned: Problem(500, "inference-failed", "The model failed"),
    }
)
UNFORESEEN = Problem(500, "internal-error", "Something failed that nobody foresaw")


def problem_of(error: Exception) -> Problem:
    """Return the row of the table for an error; whatever is not in it is `UNFORESEEN`."""
    return PROBLEMS.get(type(error), UNFORESEEN) if isinstance(error, errors.ArmoserveError) else UNFORESEEN


def problem_response(error: Exception, request_id: str) -> Response:
    """Return the problem document of an error, with the headers its kind calls for."""
    if isinstance(error, HTTPException):
        title = HTTPStatus(error.status_code).phrase
        problem = Problem(error.status_code, "about:blank", title)
        return _document(problem, title, request_id, {}, dict(error.headers or {}))
    problem = problem_of(error)
    detail = str(error) if problem is not UNFORESEEN else "the cause is in the log under this request id"
    fields = error.fields if isinstance(error, errors.MalformedBody) else ()
    extra = {"errors": [{"field": field, "message": message} for field, message in fields]} if fields else {}
    return _document(problem, detail, request_id, extra, _headers(error))


def install_problem_responses(app: FastAPI) -> None:
    """Answer every error raised on purpose, and the framework's own, with a problem document."""

    async def answer_error(request: Request, error: Exception) -> Response:
        if isinstance(error, errors.InferenceFailed):
            log.error("%s", error)  # the line that joins the request's id with the pack whose failure was logged
        return problem_response(error, request_id_of(request.scope))

    app.add_exception_handler(errors.ArmoserveError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)


def _document(
    problem: Problem, detail: str, request_id: str, extra: Mapping[str, Any], headers: Mapping[str, str]
) -> Response:
    current_record().problem = problem.type
    content = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        **extra,
        "request_id": request_id,
    }
    return Response(orjson.dumps(content), problem.status, dict(headers), MEDIA_TYPE)


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, errors.Overloaded):
        spread_seconds = error.retry_after_seconds * (1 + RETRY_JITTER * random.random())  # noqa: S311
        return {"Retry-After": str(max(1, ceil(spread_seconds)))}
    if isinstance(error, errors.Unauthorized):
        return {"WWW-Authenticate": 'Bearer realm="armoserve", Basic realm="armoserve"'}
    if isinstance(error, errors.BodyTooLarge):
        # What the caller still sends of the body is not wanted.
        return {"Connection": "close"}
    return {}
