"""Request bodies: read within their limit, parsed strictly, fitted to a schema. It knows no route."""

import asyncio
import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.api.strict_json import BODY, field_path, parse_json
from app.errors import BodyTooLarge, MalformedBody
from app.preferences import LONGEST_NAME_SHOWN

Body = TypeVar("Body", bound=BaseModel)

PARSE_IN_THREAD_BYTES = 32 * 1024
"""A larger body may hold a thousand small items, and would hold the event loop for longer than a few milliseconds."""
LONGEST_SILENCE_SECONDS = 30.0
"""Between two pieces of a body; a caller that is silent for longer has stalled."""
MOST_FAULTS_SHOWN = 10
LONG_NUMBER = re.compile(r"[0-9]{20,}(\.[0-9]+)?")
WORDS: Mapping[str, str] = MappingProxyType(
    {
        "extra_forbidden": "there is no such field",
        "model_type": "input should be an object",
        "dict_type": "input should be an object",
    }
)
"""Kinds of faults that the schema's library words for programmers."""


async def read_body(request: Request, max_body_bytes: int) -> bytes:
    """Read the whole body; one that is too large is refused before it is read, or as soon as it shows.

    Raises:
        BodyTooLarge: more than `max_body_bytes`, announced or sent.
        HTTPException: 408, nothing came for `LONGEST_SILENCE_SECONDS`.
    """
    if int(request.headers.get("content-length", 0)) > max_body_bytes:
        _refuse_size(max_body_bytes)
    body = bytearray()
    clock = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(LONGEST_SILENCE_SECONDS) as patience:
            async for chunk in request.stream():
                patience.reschedule(clock() + LONGEST_SILENCE_SECONDS)
                body += chunk
                if len(body) > max_body_bytes:
                    _refuse_size(max_body_bytes)
    except TimeoutError:
        raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"}) from None
    return bytes(body)


async def parse_body(body: bytes, schema: type[Body], max_items: int) -> Body:
    """Parse and validate a body, in a thread where it is large.

    Raises:
        MalformedBody: it is not JSON or does not fit the schema; names the fields.
    """
    if len(body) > PARSE_IN_THREAD_BYTES:
        return await asyncio.to_thread(parse, body, schema, max_items)
    return parse(body, schema, max_items)


def parse(body: bytes, schema: type[Body], max_items: int) -> Body:
    """Parse JSON strictly and validate it against a schema.

    Raises:
        MalformedBody: it is not JSON or does not fit the schema; names the fields.
    """
    content = parse_json(body)
    if not isinstance(content, dict):
        raise MalformedBody("the body must be a JSON object")
    items = content.get("items")
    if isinstance(items, list) and len(items) > max_items:
        raise MalformedBody(f"items holds {len(items)} items; at most {max_items} are allowed in one request")
    return fit(content, schema)


def fit(content: Any, schema: type[Body]) -> Body:
    """Validate parsed JSON against a schema.

    Raises:
        MalformedBody: it does not fit; names the fields.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise _malformed(error) from None


def _refuse_size(max_body_bytes: int) -> NoReturn:
    raise BodyTooLarge(f"the body is larger than {max_body_bytes} bytes")


def _malformed(error: ValidationError) -> MalformedBody:
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:MOST_FAULTS_SHOWN]
    fields = tuple((_place(fault), _words(fault)) for fault in faults)
    place, words = fields[0]
    return MalformedBody(words if place == BODY else f"{place}: {words}", fields)


def _place(fault: ErrorDetails) -> str:
    is_unknown = fault["type"] == "extra_forbidden"
    return field_path(fault["loc"], LONGEST_NAME_SHOWN) if is_unknown else field_path(fault["loc"])


def _words(fault: ErrorDetails) -> str:
    message = WORDS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    short = LONG_NUMBER.sub(lambda digits: f"{float(digits[0]):g}", message)
    return short[:1].lower() + short[1:]
