"""A request's body that is read while it is answered: taken line by line as lines are wanted, and stopped at any time.

While nothing is taken the socket fills and the caller waits. Once it is stopped, what still comes is passed over, so
that a caller that sends first and reads later gets to read why.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from app.api.lines import Line, LineSplitter
from app.errors import ArmoserveError, StreamStalled

SLICE_BYTES = 16 * 1024
"""Cut into lines at a time: even of nothing but line ends it holds up the event loop for a few milliseconds."""


class StreamedBody:
    """The lines of one request, and how far they were read."""

    def __init__(self, receive: Receive, max_line_bytes: int, stall_seconds: float) -> None:
        self.num_lines = 0
        """Lines read."""
        self.last_number = 0
        """The number of the last one."""
        self.num_messages = 0
        """Pieces of the body that came, read or passed over."""
        self.stopped_by: ArmoserveError | None = None
        self._receive = receive
        self._splitter = LineSplitter(max_line_bytes)
        self._stall_seconds = stall_seconds
        self._receiving: asyncio.Task[Message] | None = None
        self._rest: asyncio.Task[None] | None = None
        self._is_read = False
        self._stopping = asyncio.Event()
        self._is_whole = asyncio.Event()
        self._is_left = asyncio.Event()

    async def begin(self) -> None:
        """Ask for the first piece. A caller that sent `Expect: 100-continue` is told to go on by this alone."""
        self._receiving = asyncio.create_task(self._next_message())
        await asyncio.sleep(0)

    async def lines(self, may_be_silent: Callable[[], bool]) -> AsyncGenerator[Line]:
        """Yield lines until the body ends or is stopped, which silence of `stall_seconds` also does, unless it may be.

        Raises:
            ClientDisconnect: the caller has gone.
        """
        while (chunk := await self._chunk(may_be_silent)) is not None:
            for start in range(0, len(chunk), SLICE_BYTES):
                for line in self._splitter.push(chunk[start : start + SLICE_BYTES]):
                    if self.stopped_by is not None:
                        return
                    yield self._counted(line)
                await asyncio.sleep(0)
        if self.stopped_by is None:
            for line in self._splitter.end():
                yield self._counted(line)

    def stop(self, why: ArmoserveError) -> None:
        """Read no more lines, for the first reason given; nothing happens where all have been read."""
        if self.stopped_by is None and not self._is_whole.is_set():
            self.stopped_by = why
            self._stopping.set()
            self._pass_over_the_rest()

    async def left(self) -> None:
        """Return once the caller has gone, as far as that shows: while the window is full, nobody looks."""
        await self._is_left.wait()

    async def whole(self) -> None:
        """Return once all of the body has come, read or not."""
        await self._is_whole.wait()

    def close(self) -> None:
        for task in (self._receiving, self._rest):
            if task is not None:
                task.cancel()

    async def _chunk(self, may_be_silent: Callable[[], bool]) -> bytes | None:
        """Return the next piece; None at the end, or once it is stopped."""
        while self.stopped_by is None and not self._is_read:
            message = await self._message_or_stop()
            if message is not None:
                return bytes(message.get("body", b""))
            if self.stopped_by is None and not may_be_silent():
                self.stop(StreamStalled(f"nothing came for {self._stall_seconds:g} seconds"))
        return None

    async def _message_or_stop(self) -> Message | None:
        """Return the next message; None where it is stopped, or nothing came in time."""
        receiving = self._receiving = self._receiving or asyncio.create_task(self._next_message())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((receiving, stopping), timeout=self._stall_seconds, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self.stopped_by is not None or not receiving.done():
            return None
        self._receiving = None
        message = receiving.result()
        if self._is_left.is_set():
            raise ClientDisconnect
        self._is_read = self._is_whole.is_set()
        if self._is_read:
            self._pass_over_the_rest()
        return message

    async def _next_message(self) -> Message:
        message = await self._receive()
        self.num_messages += 1
        if message["type"] == "http.disconnect":
            self._is_left.set()
        elif not message.get("more_body", False):
            self._is_whole.set()
        return message

    def _pass_over_the_rest(self) -> None:
        self._rest = asyncio.create_task(self._until_left())

    async def _until_left(self) -> None:
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            await receiving
        while not self._is_left.is_set():
            await self._next_message()

    def _counted(self, line: Line) -> Line:
        self.num_lines += 1
        self.last_number = line.number
        return line
