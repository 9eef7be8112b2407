"""`python -m app score`: a file of items through the same core as the server, without one."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Collection, Iterator
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import BinaryIO

import orjson
from prometheus_client import CollectorRegistry
from tqdm import tqdm

from app.api.directions import scalar_direction
from app.api.lines import Line, LineAnswer, LineSplitter, Window
from app.api.ndjson import LineScoring
from app.domain import Truncation
from app.engine import Engine
from app.errors import ArmoserveError, InferenceFailed, InvalidSetting
from app.main import start_model
from app.settings import Settings

CHUNK_BYTES = 64 * 1024
LINE_START = b'{"line":'
"""How every line of output begins, before its number."""


def check_output(source: Path, to: Path, *, goes_on: bool, overwrites: bool) -> None:
    """See that an output can be written and that nobody loses what it holds, before anything is loaded.

    Raises:
        InvalidSetting: one line that says why not.
    """
    if to.exists() and to.samefile(source):
        raise InvalidSetting(f"-o {to} is {source} itself: choose another file, or the items would be lost")
    if to.is_dir() or not os.access(to if to.exists() else to.parent, os.W_OK):
        raise InvalidSetting(f"-o {to} cannot be written: it must be a file in a folder that is there and writable")
    if to.is_file() and to.stat().st_size and not (goes_on or overwrites):
        raise InvalidSetting(f"-o {to} is not empty: --resume goes on with it, --overwrite replaces it")


def score_file(
    engine: Engine, settings: Settings, source: Path, to: Path | None, *, truncation: Truncation, resume: bool
) -> int:
    """Score a file of items, one a line, into another or to standard output; return how many lines were errors.

    With `resume`, lines that the output already holds are passed over, and a torn last line is written anew.
    """
    max_line_bytes = settings.max_body_bytes
    done = _lines_done(to) if resume and to is not None else set()
    num_lines = sum(1 for _ in _lines_of(source, max_line_bytes))
    with ExitStack() as files:
        output: BinaryIO = sys.stdout.buffer if to is None else files.enter_context(to.open("ab" if resume else "wb"))
        bar = files.enter_context(tqdm(total=num_lines, unit="item", file=sys.stderr, initial=len(done)))
        return asyncio.run(
            _score_lines(engine, settings, _todo(_lines_of(source, max_line_bytes), done), output, bar, truncation)
        )


async def _score_lines(
    engine: Engine,
    settings: Settings,
    lines: AsyncGenerator[Line],
    output: BinaryIO,
    bar: "tqdm[None]",
    truncation: Truncation,
) -> int:
    num_errors = 0
    async with aclosing(answers_of(engine, settings, lines, truncation)) as answers:
        async for answer in answers:
            output.write(answer.content + b"\n")
            output.flush()
            num_errors += answer.is_error
            bar.update()
    return num_errors


async def answers_of(
    engine: Engine, settings: Settings, lines: AsyncGenerator[Line], truncation: Truncation
) -> AsyncGenerator[LineAnswer]:
    """Yield one answer per line, in their order, through a service of its own.

    Raises:
        InferenceFailed: the engine has ended; what was not answered before is not, since it would be an error that
            says nothing of its line, and a line that is answered is never scored again.
    """
    failures: list[Exception] = []
    model = await start_model(engine, settings, CollectorRegistry(), failures.append)
    try:
        scalar = scalar_direction((), model, way="give --default-preference name:weight,name:weight over")
        scoring = LineScoring(model, settings.max_body_bytes, truncation, scalar=scalar)
        window = Window(max_bytes=settings.max_body_bytes)
        async with aclosing(lines), aclosing(window.answers(lines, scoring.answer, in_order=True)) as answers:
            async for answer in answers:
                if model.service.has_ended():
                    raise InferenceFailed(str(failures[0]) if failures else "the engine has ended: run again")
                yield answer
    finally:
        await model.service.stop()


async def _todo(lines: Iterator[Line], done: Collection[int]) -> AsyncGenerator[Line]:
    for line in lines:
        if line.number not in done:
            yield line


def _lines_of(path: Path, max_line_bytes: int) -> Iterator[Line]:
    splitter = LineSplitter(max_line_bytes)
    with path.open("rb") as file:
        for chunk in iter(partial(file.read, CHUNK_BYTES), b""):
            yield from splitter.push(chunk)
    yield from splitter.end()


def _lines_done(path: Path) -> set[int]:
    """Return the numbers of the lines that an output holds, and cut a torn last line off it."""
    if not path.exists():
        return set()
    done: set[int] = set()
    whole_bytes = 0
    with path.open("rb+") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                _check_torn(path, line)
                break
            whole_bytes += len(line)
            done.add(_line_number(path, line))
        lines.truncate(whole_bytes)
    return done


def _line_number(path: Path, line: bytes) -> int:
    try:
        return int(orjson.loads(line)["line"])
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(path) from error


def _check_torn(path: Path, line: bytes) -> None:
    """See that a line was ours before it was cut off, so that what is taken off the file is nobody else's."""
    if not LINE_START.startswith(line) and re.fullmatch(LINE_START + rb"\d*(,.*)?", line) is None:
        raise _foreign(path)


def _foreign(path: Path) -> ArmoserveError:
    return ArmoserveError(f"{path} is no output of this command: it cannot be resumed")
