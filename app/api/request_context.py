"""The outermost layer around every request: its id, its metrics, and the answer when something unforeseen fails."""

import asyncio
import contextvars
import logging
import re
import time
import traceback
from collections.abc import Callable
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import Draining

REQUEST_ID_HEADER = b"x-request-id"
CALLERS_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
CALLER_GONE_STATUS = 499
"""Nobody receives it; it marks the request in the metrics."""

current_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The request that this task works for; log lines carry it."""

log = logging.getLogger(__name__)

Observe = Callable[[str, int, float], None]
"""Record (path, status, seconds) of an answered request."""
AnswerFailure = Callable[[Exception, str], ASGIApp]


def request_id_of(scope: Scope) -> str:
    """Return the id of the request: the caller's own where it is well formed, else a fresh one."""
    known: str | None = scope.get("armoserve.request_id")
    if known is None:
        given = dict(scope["headers"]).get(REQUEST_ID_HEADER, b"")
        known = given.decode("ascii") if CALLERS_ID.fullmatch(given) else uuid4().hex
        scope["armoserve.request_id"] = known
    return known


class RequestContext:
    """Give each request an id, measure it, and see that it ends in an answer."""

    def __init__(self, app: ASGIApp, observe: Observe, answer_failure: AnswerFailure) -> None:
        self.app = app
        self.observe = observe
        self.answer_failure = answer_failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        answer = _Answer(send, request_id_of(scope))
        token = current_request_id.set(answer.request_id)
        try:
            await self._run(scope, receive, answer)
        finally:
            self.observe(scope["path"], answer.status, time.monotonic() - began)
            current_request_id.reset(token)

    async def _run(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            log.debug("the caller has gone")
        except asyncio.CancelledError:  # the server gives up what the drain timeout did not suffice for
            if answer.status != CALLER_GONE_STATUS:
                raise
            draining = Draining("the service is shutting down")
            await self.answer_failure(draining, answer.request_id)(scope, receive, answer.send)
        except Exception as error:
            # Its message may hold a caller's text, so only the kind and the place are logged above DEBUG.
            log.error("request failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))  # noqa: TRY400
            log.debug("the failure's own words", exc_info=True)
            if answer.status != CALLER_GONE_STATUS:
                raise  # half an answer is out: the server closes the connection
            await self.answer_failure(error, answer.request_id)(scope, receive, answer.send)


class _Answer:
    """What is sent back, with the request's id in its headers."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = CALLER_GONE_STATUS

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, self.request_id.encode())]
        await self._send(message)
