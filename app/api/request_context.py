"""The outermost layer around every request: its id, what is told of it, and the answer to a failure nobody foresaw."""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING
from uuid import uuid4

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.request_report import QUIET_ROUTES, Answered, server_timing
from app.errors import Draining
from app.serving.record import RequestRecord, recording

if TYPE_CHECKING:
    from app.api.tracing import Tracing

REQUEST_ID_HEADER = b"x-request-id"
SERVER_TIMING_HEADER = b"server-timing"
REVISION_HEADER = b"x-model-revision"
"""Of the model that a request was given to: trainers' wire formats have no place for it in their bodies."""
CALLERS_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
CALLER_GONE_STATUS = 499
"""Nobody receives it; it marks the request in the metrics."""

log = logging.getLogger(__name__)

Observe = Callable[[str, int, float], None]
"""Record (route, status, seconds) of an answered request."""
AnswerFailure = Callable[[Exception, str], ASGIApp]


def request_id_of(scope: Scope) -> str:
    """Return the id of the request: the caller's own where it is well formed, else a fresh one."""
    known: str | None = scope.get("armoserve.request_id")
    if known is None:
        given = dict(scope["headers"]).get(REQUEST_ID_HEADER, b"")
        known = given.decode("ascii") if CALLERS_ID.fullmatch(given) else uuid4().hex
        scope["armoserve.request_id"] = known
    return known


def caller_address(scope: Scope) -> str:
    """Return where the request comes from: a proxy, where it came through one; empty where nobody knows."""
    address: str = (scope.get("client") or ("", 0))[0]
    return address


class RequestContext:
    """Give each request an id, measure it, and see that it ends in an answer.

    `routes` are the paths that there are; whatever else a caller asks for is told of as `other`.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Collection[str],
        observe: Observe,
        answer_failure: AnswerFailure,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.app = app
        self.routes = routes
        self.observe = observe
        self.answer_failure = answer_failure
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, RequestRecord(request_id_of(scope), caller_address(scope)))
        method, route = scope["method"], scope["path"] if scope["path"] in self.routes else "other"
        if self.tracing is not None and route not in QUIET_ROUTES:
            self.tracing.begin(answer.record, method, route, scope["headers"])
        with recording(answer.record):
            try:
                await self._run(scope, receive, answer)
            finally:
                self._tell(Answered(method, route, answer.status, answer.seconds(), answer.record))

    def _tell(self, answered: Answered) -> None:
        self.observe(answered.route, answered.status, answered.seconds)
        answered.log()
        if self.tracing is not None:
            self.tracing.end(answered)

    async def _run(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            log.debug("the caller has gone")
        except asyncio.CancelledError:  # the server gives up what the drain timeout did not suffice for
            if answer.status != CALLER_GONE_STATUS:
                raise
            draining = Draining("the service is shutting down")
            await self.answer_failure(draining, answer.record.request_id)(scope, receive, answer.send)
        except Exception as error:
            # Its message may hold a caller's text, so only the kind and the place are logged above DEBUG.
            log.error("request failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))  # noqa: TRY400
            log.debug("the failure's own words", exc_info=True)
            if answer.status != CALLER_GONE_STATUS:
                raise  # half an answer is out: the server closes the connection
            await self.answer_failure(error, answer.record.request_id)(scope, receive, answer.send)


class _Answer:
    """What is sent back, with the request's id and timings in its headers."""

    def __init__(self, send: Send, record: RequestRecord) -> None:
        self._send = send
        self._began_at = time.monotonic()
        self.record = record
        self.status = CALLER_GONE_STATUS

    def seconds(self) -> float:
        """Return the time since the request's first byte."""
        return time.monotonic() - self._began_at

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (REQUEST_ID_HEADER, self.record.request_id.encode())]
            if self.record.revision:
                headers.append((REVISION_HEADER, self.record.revision.encode()))
            if any(name == b"content-length" for name, _ in headers):  # of a stream nothing is known yet
                headers.append((SERVER_TIMING_HEADER, server_timing(self.record, self.seconds())))
            message["headers"] = headers
        await self._send(message)
