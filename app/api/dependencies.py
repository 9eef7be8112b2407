"""What routes need from a request before they begin: the model, a deadline, a body; and whether its caller stays."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import Depends, Request, Response
from starlette.requests import ClientDisconnect

from app.api.json_body import Body, parse_body, read_body
from app.api.state import ServedModel, ServerState
from app.errors import MalformedBody
from app.serving.record import current_record

Result = TypeVar("Result")

TIMEOUT_HEADER = "X-Timeout-Ms"
BUILT_AT_ONCE = 32
"""Items, or responses, of which more would hold the event loop for longer than a few milliseconds."""
MILLISECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20})?")


def server_of(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


def model_of(request: Request) -> ServedModel:
    return given_to(server_of(request).loaded_model())


def given_to(model: ServedModel) -> ServedModel:
    """Note which model a request was given to: its answer names it in a header."""
    current_record().revision = model.info.revision
    return model


def timeout_of(request: Request) -> float | None:
    """Return how long the caller's patience lasts, in seconds.

    Raises:
        MalformedBody: the header is no number of milliseconds above 0.
    """
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return None
    given = given.strip()
    if MILLISECONDS.fullmatch(given) is None or float(given) == 0:
        raise MalformedBody(f"the header {TIMEOUT_HEADER} must be a number of milliseconds above 0")
    return float(given) / 1000


def deadline_of(request: Request) -> float | None:
    """Return when the caller's patience ends, in monotonic seconds. Raises as `timeout_of` does."""
    timeout_seconds = timeout_of(request)
    return None if timeout_seconds is None else time.monotonic() + timeout_seconds


Server = Annotated[ServerState, Depends(server_of)]
Model = Annotated[ServedModel, Depends(model_of)]
Deadline = Annotated[float | None, Depends(deadline_of)]


def body_of(schema: type[Body]) -> Callable[[Request, Server], Awaitable[Body]]:
    """Return the dependency that reads a body of this schema within the server's limits."""

    async def read(request: Request, server: Server) -> Body:
        content = await read_body(request, server.limits.max_body_bytes)
        check_encoding(request)
        return await parse_body(content, schema, server.limits.max_items)

    return read


def check_encoding(request: Request) -> None:
    """See that the body is sent as it is.

    Raises:
        MalformedBody: it is compressed.
    """
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise MalformedBody("content encodings are not supported: send the body without Content-Encoding")


def json_response(content: object) -> Response:
    """Return an answer; floats keep every digit that tells them apart."""
    return Response(orjson.dumps(content), media_type="application/json")


async def built(work: Callable[[], Result], size: int) -> Result:
    """Do pure work on so many items or responses, in a thread where they are many."""
    return await asyncio.to_thread(work) if size > BUILT_AT_ONCE else work()


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work of a request, and stop it as soon as its caller is gone.

    Raises:
        ClientDisconnect: the caller has gone; nobody waits for an answer.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait((working, leaving))
        if not working.cancelled():
            working.exception()  # seen, so that asyncio does not report it when nobody waits for it


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
