"""`python -m app score`: a file of items through the same core as the server, without one."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import BinaryIO

import orjson
from prometheus_client import CollectorRegistry
from tqdm import tqdm

from app.api.ndjson import LineScoring
from app.domain import Truncation
from app.engine import Engine
from app.errors import ArmoserveError, InferenceFailed
from app.main import start_model
from app.settings import Settings


def score_file(
    engine: Engine, settings: Settings, source: Path, to: Path | None, *, truncation: Truncation, resume: bool
) -> int:
    """Score a file of items, one a line, into another or to standard output; return how many lines were errors.

    With `resume`, lines that the output already holds are passed over, and a torn last line is written anew.
    """
    done = _lines_done(to) if resume and to is not None else set()
    with ExitStack() as files:
        lines = files.enter_context(source.open("rb"))
        output: BinaryIO = sys.stdout.buffer if to is None else files.enter_context(to.open("ab" if resume else "wb"))
        bar = files.enter_context(tqdm(total=_count_lines(source), unit="item", file=sys.stderr, initial=len(done)))
        return asyncio.run(_score_lines(engine, settings, _todo(lines, done), output, bar, truncation))


async def _score_lines(
    engine: Engine,
    settings: Settings,
    lines: Iterator[tuple[int, bytes]],
    output: BinaryIO,
    bar: "tqdm[None]",
    truncation: Truncation,
) -> int:
    failures: list[Exception] = []
    model = await start_model(engine, settings, CollectorRegistry(), failures.append)
    num_errors = 0
    try:
        async with aclosing(LineScoring(model, truncation).results(lines)) as results:
            async for result in results:
                output.write(result.content + b"\n")
                output.flush()
                num_errors += result.is_error
                bar.update()
                if failures:
                    raise InferenceFailed(str(failures[0]))
    finally:
        await model.service.stop()
    return num_errors


def _todo(lines: BinaryIO, done: set[int]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, start=1):
        if line.strip() and number not in done:
            yield number, line


def _count_lines(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _lines_done(path: Path) -> set[int]:
    """Return the numbers of the lines that an output holds, and cut a torn last line off it."""
    if not path.exists():
        return set()
    done: set[int] = set()
    whole_bytes = 0
    with path.open("rb+") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            whole_bytes += len(line)
            done.add(_line_number(path, line))
        lines.truncate(whole_bytes)
    return done


def _line_number(path: Path, line: bytes) -> int:
    try:
        return int(orjson.loads(line)["line"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArmoserveError(f"{path} is no output of this command: it cannot be resumed") from error
