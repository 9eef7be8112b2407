"""Bytes to numbered lines, and lines to answers, a bounded number at a time. Knows no file, no socket and no JSON."""

import asyncio
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

LINES_IN_FLIGHT = 64
"""Enough items to fill packs while others are tokenised, few enough for any memory."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not blank. Blank ones count in `number`, which begins at 1."""

    number: int
    content: bytes | None
    """Without its end; None where the line is too long to be kept."""

    @property
    def num_bytes(self) -> int:
        return len(self.content or b"")


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """One line of output."""

    content: bytes
    is_error: bool


Answer: TypeAlias = Callable[[Line], Coroutine[Any, Any, LineAnswer]]


class LineSplitter:
    """Cuts bytes into lines, however they arrive, and keeps no more than one unfinished line of bounded length."""

    def __init__(self, max_line_bytes: int, first_number: int = 1) -> None:
        """`first_number` is what the first line is called: 1 at the beginning of a file."""
        self._max_line_bytes = max_line_bytes
        self._number = first_number
        self._begun = bytearray()
        self._is_too_long = False

    def push(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in `chunk`, and one that grows too long in it, at once."""
        start = 0
        while (stop := chunk.find(b"\n", start)) >= 0:
            yield from self._grow(chunk[start:stop])
            yield from self.end()
            start = stop + 1
        yield from self._grow(chunk[start:])

    def end(self) -> Iterator[Line]:
        """Yield the line that ends here, where it holds anything; without another `push` it is the last."""
        content = bytes(self._begun)
        if self._number == 1:
            content = content.removeprefix(BOM_UTF8)
        if content and not content.isspace():
            yield Line(self._number, content)
        self._number += 1
        self._begun.clear()
        self._is_too_long = False

    def _grow(self, part: bytes) -> Iterator[Line]:
        if self._is_too_long:
            return
        if len(self._begun) + len(part) > self._max_line_bytes:
            self._is_too_long = True
            self._begun.clear()
            yield Line(self._number, None)
        else:
            self._begun += part


@dataclass(frozen=True, slots=True)
class Window:
    """How many lines, and how many bytes of them, may have been read and not yet answered.

    A line larger than `max_bytes` goes alone.
    """

    max_bytes: int
    max_lines: int = LINES_IN_FLIGHT

    async def answers(
        self, lines: AsyncIterator[Line], answer: Answer, *, in_order: bool = False
    ) -> AsyncGenerator[LineAnswer]:
        """Yield one answer per line, as they are done or in the order of the lines; read as there is room.

        A line counts as answered once its answer has been taken and the next one is asked for. Whatever reading
        raises is raised here, at once; leaving early cancels what is in flight.
        """
        done: asyncio.Queue[asyncio.Task[LineAnswer] | None] = asyncio.Queue()
        room = _Room(self)
        reading = asyncio.create_task(_read(lines, answer, room, done, in_order=in_order))
        try:
            while not (reading.done() and room.is_empty):
                if (task := await done.get()) is None:
                    reading.result()
                    continue
                yield await task
                room.leave(task)
        finally:
            reading.cancel()
            for task in room.tasks:
                task.cancel()
            await asyncio.gather(reading, *room.tasks, return_exceptions=True)


class _Room:
    """What is in the window."""

    def __init__(self, window: Window) -> None:
        self.tasks: dict[asyncio.Task[LineAnswer], int] = {}
        self._window = window
        self._num_bytes = 0
        self._changed = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        return not self.tasks

    async def for_a_line(self) -> None:
        while len(self.tasks) >= self._window.max_lines:
            await self._change()

    async def for_bytes(self, num_bytes: int) -> None:
        while self.tasks and self._num_bytes + num_bytes > self._window.max_bytes:
            await self._change()

    def enter(self, task: asyncio.Task[LineAnswer], num_bytes: int) -> None:
        self.tasks[task] = num_bytes
        self._num_bytes += num_bytes

    def leave(self, task: asyncio.Task[LineAnswer]) -> None:
        self._num_bytes -= self.tasks.pop(task)
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


async def _read(
    lines: AsyncIterator[Line],
    answer: Answer,
    room: _Room,
    done: "asyncio.Queue[asyncio.Task[LineAnswer] | None]",
    *,
    in_order: bool,
) -> None:
    """Begin to answer lines, a task each; `done` gets each task once it is its turn, and None at the end."""
    try:
        while True:
            await room.for_a_line()
            line = await anext(lines, None)
            if line is None:
                break
            await room.for_bytes(line.num_bytes)
            task = asyncio.create_task(answer(line))
            room.enter(task, line.num_bytes)
            if in_order:
                done.put_nowait(task)
            else:
                task.add_done_callback(done.put_nowait)
    finally:
        done.put_nowait(None)
