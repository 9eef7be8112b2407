"""An answer that goes out line by line while its request comes in, for as long as the caller likes.

Memory is bounded both ways: no line is read while the window is full, so that the socket holds the caller back, and
the window is full while the caller takes no answers. What ends a stream before its end is said in a last line.
"""

import asyncio
from contextlib import aclosing, suppress
from http import HTTPStatus

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.lines import Window
from app.api.ndjson import LineScoring
from app.api.problems import problem_of
from app.api.state import ServerState
from app.api.streamed_body import StreamedBody
from app.errors import ArmoserveError, Draining, StreamStalled

MEDIA_TYPE = "application/x-ndjson"
LINGER_SECONDS = 0.3
"""After the last line of a stream that ended early: closing on a caller that still sends may cost it that line.

Shorter than what the server leaves after the drain timeout."""


class LineStream(Response):
    """One line out for each line in, in the order in which they are done."""

    def __init__(self, scoring: LineScoring, server: ServerState) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self.headers["connection"] = "close"
        self.headers["x-accel-buffering"] = "no"  # or nginx keeps answers back until there are many
        self._scoring = scoring
        self._server = server
        self._stall_seconds = server.limits.stream_stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        body = StreamedBody(receive, self._scoring.max_line_bytes, self._stall_seconds)
        working = asyncio.create_task(self._answer(body, send))
        leaving = asyncio.create_task(body.left())
        closing = asyncio.create_task(self._stop_at_close(body))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # The drain timeout passed, and what was in flight has been failed: a moment is left to say so.
            body.stop(_draining())
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            body.close()
            for task in (working, leaving, closing):
                task.cancel()
            await asyncio.wait((working, leaving, closing))
        if working.cancelled():
            raise ClientDisconnect
        working.result()

    async def _answer(self, body: StreamedBody, send: Send) -> None:
        num_answered = 0
        await body.begin()
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": self.raw_headers})
        window = Window(max_bytes=self._scoring.max_line_bytes)
        lines = body.lines(may_be_silent=lambda: num_answered < body.num_lines)
        async with aclosing(lines), aclosing(window.answers(lines, self._scoring.answer)) as answers:
            async for answer in answers:
                await self._send_line(answer.content, body, send)
                num_answered += 1
        if body.stopped_by is not None:
            await self._send_line(_last_line(body.stopped_by, body.last_number), body, send)
            with suppress(TimeoutError):
                await asyncio.wait_for(body.whole(), LINGER_SECONDS)
        await send({"type": "http.response.body"})

    async def _send_line(self, line: bytes, body: StreamedBody, send: Send) -> None:
        """Send a line, however long the caller takes; one that takes nothing for too long has no more lines read.

        It may be one that sends all before it reads anything. The server gives up those that do neither.
        """
        message: Message = {"type": "http.response.body", "body": line + b"\n", "more_body": True}
        while True:
            try:
                async with asyncio.timeout(self._stall_seconds):
                    return await send(message)
            except TimeoutError:
                waited = f"no answer was taken for {self._stall_seconds:g} seconds"
                body.stop(StreamStalled(f"{waited}: read answers while lines are sent"))

    async def _stop_at_close(self, body: StreamedBody) -> None:
        await self._server.closing.wait()
        body.stop(_draining())


def _draining() -> Draining:
    return Draining("the service is shutting down")


def _last_line(error: ArmoserveError, last_number: int) -> bytes:
    """Say why a stream ends before its end. It is no line's answer, so it has neither number nor id."""
    where = f"lines after line {last_number} were not read" if last_number else "no line was read"
    return orjson.dumps({"error": {"type": problem_of(error).type, "message": f"{error}; {where}"}})
