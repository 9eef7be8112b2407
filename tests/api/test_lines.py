"""Bytes to lines however they arrive, and a window that no stream of lines passes."""

import asyncio
import itertools
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.lines import Line, LineAnswer, LineSplitter, Window

MAX_BYTES = 12
piece = st.sampled_from([b"a", b"{}", b"\n", b"\r\n", b" ", b"\t", BOM_UTF8, b"\xff", "ü".encode(), b"0123456789"])
content = st.lists(piece, max_size=30).map(b"".join)


def split(chunks: list[bytes]) -> list[Line]:
    splitter = LineSplitter(MAX_BYTES)
    return [line for chunk in chunks for line in splitter.push(chunk)] + list(splitter.end())


@given(content, st.lists(st.integers(0, 100)))
def test_how_bytes_arrive_makes_no_difference(whole: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = [whole[start:stop] for start, stop in itertools.pairwise(places)]
    rows = whole.split(b"\n")
    kept = [row if len(row) <= MAX_BYTES else None for row in rows]
    if kept[0] is not None:
        kept[0] = kept[0].removeprefix(BOM_UTF8)
    expected = [Line(n, row) for n, row in enumerate(kept, start=1) if row is None or row.strip()]
    assert split(chunks) == expected


def test_a_line_that_grows_too_long_is_told_at_once_and_not_kept() -> None:
    splitter = LineSplitter(MAX_BYTES)
    assert list(splitter.push(b"x" * 10)) == []
    assert list(splitter.push(b"x" * 10)) == [Line(1, None)]
    assert list(splitter.push(b"x" * 10**6)) == []
    assert len(splitter._begun) == 0
    assert list(splitter.push(b"\na\n")) == [Line(2, b"a")]


@dataclass
class Counted:
    """Lines and answers that count how many lines are out, and answers that wait until they may go on."""

    sizes: list[int]
    order: list[int] = field(default_factory=list)
    num_out: int = 0
    most_out: int = 0
    most_bytes: int = 0
    num_bytes: int = 0

    async def lines(self) -> AsyncIterator[Line]:
        for number, size in enumerate(self.sizes, start=1):
            self.num_out += 1
            self.most_out = max(self.most_out, self.num_out)
            yield Line(number, b"x" * size)

    async def answer(self, line: Line) -> LineAnswer:
        self.num_bytes += line.num_bytes
        self.most_bytes = max(self.most_bytes, self.num_bytes)
        for _ in range(self.order[line.number % len(self.order)] if self.order else 0):
            await asyncio.sleep(0)
        return LineAnswer(b"%d" % line.number, is_error=False)


async def taken(
    counted: Counted, window: Window, *, in_order: bool, pause: Callable[[], Awaitable[None]] | None = None
) -> list[int]:
    numbers = []
    async for one in window.answers(counted.lines(), counted.answer, in_order=in_order):
        if pause is not None:
            await pause()
        numbers.append(int(one.content))
        counted.num_out -= 1
        counted.num_bytes -= counted.sizes[numbers[-1] - 1]
    return numbers


@given(
    st.lists(st.integers(1, 20), max_size=60),
    st.lists(st.integers(0, 9), max_size=7),
    st.integers(1, 8),
    st.integers(1, 40),
    st.booleans(),
)
def test_every_line_has_one_answer_and_the_window_is_never_passed(
    sizes: list[int], order: list[int], max_lines: int, max_bytes: int, in_order: bool
) -> None:
    counted = Counted(sizes, order)
    numbers = asyncio.run(taken(counted, Window(max_bytes, max_lines), in_order=in_order))
    expected = list(range(1, len(sizes) + 1))
    assert (numbers if in_order else sorted(numbers)) == expected
    assert counted.most_out <= max_lines
    assert counted.most_bytes <= max(max_bytes, *sizes, 0)


def test_answers_that_are_not_taken_hold_reading_back() -> None:
    async def run() -> int:
        counted = Counted([1] * 1000)
        answers = Window(max_bytes=10**6, max_lines=5).answers(counted.lines(), counted.answer)
        await anext(answers)
        for _ in range(100):
            await asyncio.sleep(0)
        await answers.aclose()
        return counted.num_out

    assert asyncio.run(run()) == 5


def test_what_is_done_first_is_answered_first() -> None:
    counted = Counted([1] * 3, order=[0, 9, 5])
    assert asyncio.run(taken(counted, Window(10**6), in_order=False)) == [3, 2, 1]


def test_what_reading_raises_ends_it_and_cancels_what_is_in_flight() -> None:
    cancelled = []

    async def lines() -> AsyncIterator[Line]:
        yield Line(1, b"x")
        await asyncio.sleep(0)
        raise ConnectionError

    async def answer(line: Line) -> LineAnswer:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(line.number)
            raise
        return LineAnswer(b"", is_error=False)

    async def run() -> None:
        async for _ in Window(10**6).answers(lines(), answer):
            pass

    with pytest.raises(ConnectionError):
        asyncio.run(run())
    assert cancelled == [1]
