"""Request bodies: read within their limit, parsed strictly. It knows no route and no schema of ours.

Stricter than JSON readers commonly are, because what they let pass ends in wrong rewards: NaN and infinity (also as
1e999), names given twice, integers beyond 64 bits and lone surrogates are refused. Messages never show the text.
"""

import asyncio
import json
import math
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.errors import BodyTooLarge, MalformedBody
from app.preferences import LONGEST_NAME_SHOWN

Body = TypeVar("Body", bound=BaseModel)

PARSE_IN_THREAD_BYTES = 256 * 1024
"""A larger body would hold the event loop for longer than a few milliseconds."""
LONGEST_SILENCE_SECONDS = 30.0
"""Between two pieces of a body; a caller that is silent for longer has stalled."""
LARGEST_INTEGER = 2**63 - 1
LONGEST_NUMBER = 400
"""Digits; the longest number that a float64 needs has fewer."""
MOST_FAULTS_SHOWN = 10


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
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise _malformed(error) from None


def parse_json(body: bytes) -> Any:
    """Parse JSON as RFC 8259 has it, and refuse what cannot mean a value.

    Raises:
        MalformedBody: says what is wrong and, where known, at which character.
    """
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique_names,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_integer,
        )
    except UnicodeDecodeError:
        raise MalformedBody("the body is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"the body is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise MalformedBody("the body is nested too deeply") from None


def field_path(location: tuple[int | str, ...]) -> str:
    """Return a place in a body as people write it: `items[3].messages[0].role`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("("):  # the tag of a union's variant, which says nothing to a caller
            path += f".{_cut(part)}"
    return path.removeprefix(".")


def is_unicode(text: str) -> bool:
    """Say whether a text is free of lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse_size(max_body_bytes: int) -> NoReturn:
    raise BodyTooLarge(f"the body is larger than {max_body_bytes} bytes")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise MalformedBody(f"the name {_printable(twice)!r} is given twice in one object")
    if not all(map(is_unicode, members)):
        raise MalformedBody("a name holds a lone surrogate, which is no character")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedBody(f"{name} is not a JSON number")


def _finite_float(digits: str) -> float:
    number = float(digits) if len(digits) <= LONGEST_NUMBER else math.inf
    if math.isinf(number):
        raise MalformedBody("a number is too large or too long to be represented")
    return number


def _bounded_integer(digits: str) -> int:
    number = int(digits) if len(digits) <= LONGEST_NUMBER else LARGEST_INTEGER + 1
    if abs(number) > LARGEST_INTEGER:
        raise MalformedBody("an integer has more than 64 bits")
    return number


def _malformed(error: ValidationError) -> MalformedBody:
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:MOST_FAULTS_SHOWN]
    fields = tuple((field_path(fault["loc"]), _words(fault)) for fault in faults)
    place, words = fields[0]
    return MalformedBody(f"{place}: {words}" if place else words, fields)


def _words(fault: ErrorDetails) -> str:
    if fault["type"] == "extra_forbidden":
        return "there is no such field"
    message = fault["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME_SHOWN else name[: LONGEST_NAME_SHOWN - 1] + "…"


def _printable(name: str) -> str:
    return _cut(name.encode("utf-8", "replace").decode("utf-8"))
