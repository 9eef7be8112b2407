"""One connection: uvicorn's protocol, with bounds on what a caller may leave undone. It knows no route.

Bounded are a request's line and headers, in size and in time; the time in which a caller neither takes any of what
waits for it nor sends anything; and, while the port closes, the time in which a caller says nothing at all.
"""

import asyncio
import math
from http import HTTPStatus
from uuid import uuid4

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.problems import problem_response
from app.api.request_context import REQUEST_ID_HEADER
from app.errors import Draining

LARGEST_HEAD_BYTES = 64 * 1024
LONGEST_HEAD_SECONDS = 60.0
"""From a connection, or from a request's first byte or the answer before it, to the end of its headers."""
LAST_ARRIVAL_SECONDS = 1.0
"""While the port closes: for the first byte of who has connected, which may be on its way."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds that it has none of."""

    standstill_seconds = math.inf
    head_seconds = LONGEST_HEAD_SECONDS
    closing: asyncio.Event
    """The port closes: each connection ends with its next answer."""

    head_bytes = 0
    reads_head = True
    is_heard = False
    unsent_bytes = 0
    watch: asyncio.TimerHandle | None = None
    head_watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head(LAST_ARRIVAL_SECONDS if self.closing.is_set() else self.head_seconds)

    def data_received(self, data: bytes) -> None:
        self.is_heard = True
        if self.reads_head:
            if self.head_bytes == 0 and self._owes_nothing():
                self._expect_head(self.head_seconds)
            self.head_bytes += len(data)
        super().data_received(data)
        if self.reads_head and self.head_bytes > LARGEST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request line and headers are too large.")

    def on_headers_complete(self) -> None:
        self._expect_head_no_more()
        self.reads_head = False
        super().on_headers_complete()
        if self.closing.is_set():
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self.reads_head = True
        self.head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.reads_head and self.head_bytes and self._owes_nothing() and not self.transport.is_closing():
            self._unset_keepalive_if_required()  # the next request has begun already: nobody waits for its first byte
            self._expect_head(self.head_seconds)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_caller()

    def resume_writing(self) -> None:
        self._watch_no_more()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch_no_more()
        self._expect_head_no_more()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close if nothing is under way here: a request that has begun to come, or may have, is answered first."""
        if self.cycle is None and self.head_bytes == 0:
            self._expect_head(LAST_ARRIVAL_SECONDS)
        elif not (self._owes_nothing() and self.head_bytes):
            super().shutdown()

    def give_up_head(self) -> None:
        """Answer a request whose headers are still coming in, as the service ends."""
        if self.head_bytes and self._owes_nothing() and not self.transport.is_closing():
            self._answer_and_close(Draining("the service is shutting down"))

    def _owes_nothing(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self, seconds: float) -> None:
        self._expect_head_no_more()
        self.head_watch = self.loop.call_later(seconds, self._give_up_late_head)

    def _expect_head_no_more(self) -> None:
        if self.head_watch is not None:
            self.head_watch.cancel()

    def _give_up_late_head(self) -> None:
        if self.head_bytes:
            self._answer_and_close(HTTPException(HTTPStatus.REQUEST_TIMEOUT))
        else:
            self.transport.close()

    def _answer_and_close(self, error: Exception) -> None:
        """Answer a request that never became one: no route can."""
        request_id = uuid4().hex
        response = problem_response(error, request_id)
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (REQUEST_ID_HEADER, request_id.encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[response.status_code] + lines + b"\r\n" + bytes(response.body))
        self.transport.close()

    def _watch_caller(self) -> None:
        self.is_heard = False
        self.unsent_bytes = self.transport.get_write_buffer_size()
        self.watch = self.loop.call_later(self.standstill_seconds, self._give_up_at_standstill)

    def _watch_no_more(self) -> None:
        if self.watch is not None:
            self.watch.cancel()

    def _give_up_at_standstill(self) -> None:
        if self.is_heard or self.transport.get_write_buffer_size() < self.unsent_bytes:
            self._watch_caller()
        else:
            self.transport.abort()
