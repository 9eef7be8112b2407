"""Inputs of a bulk run as shards: a file's rows cut into ranges, the same ones in every run. Knows no model and no Ray.

A row is a line that is not blank, of a file that may be gzipped, or a row of a parquet file; both are read as the lines
that `POST /score/stream` takes.
"""

import gzip
import hashlib
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, cast

import orjson

from app.api.lines import Line, LineSplitter
from app.errors import ArmoserveError, InvalidSetting

LINE_SUFFIXES: Final = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
PARQUET_SUFFIX: Final = ".parquet"
SUFFIXES: Final = (*LINE_SUFFIXES, PARQUET_SUFFIX)
CHUNK_BYTES: Final = 2**20
MOST_SHARD_BYTES: Final = 64 * 2**20
"""A shard is held in memory whole; one of lines ends with the line that passes this."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Some rows of one file that follow each other."""

    number: int
    """Among all shards of the run."""
    path: str
    file: str
    """What the file is called in the output."""
    first_line: int
    """From 1; of a parquet file, its row."""
    start: int
    """Where it begins and stops: bytes of what a file of lines unpacks to, rows of a parquet file."""
    stop: int
    num_rows: int
    crc32: int = 0
    """Of these bytes, so that nothing is scored that came into the file later; of a parquet file, 0."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, what it held when the run was planned, and its shards."""

    file: str
    sha256: str
    """Of what it unpacks to."""
    shards: tuple[Shard, ...]

    @property
    def num_rows(self) -> int:
        return sum(shard.num_rows for shard in self.shards)


def find_inputs(given: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and those of the folders that are, in order.

    Raises:
        InvalidSetting: one is not there, is of no kind that can be read or is named twice, or a folder holds none.
    """
    found: list[Path] = []
    for path in given:
        inside = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
        if not (path.is_file() and path.name.endswith(SUFFIXES)) and not inside:
            raise InvalidSetting(f"{path} is no input; allowed: files that end in {', '.join(SUFFIXES)}, and folders")
        found += inside or [path]
    once = {file.resolve() for file in found}
    if len(once) < len(found):
        raise InvalidSetting("an input is given twice: each row has one answer")
    return found


def plan_inputs(files: Sequence[Path], batch_rows: int) -> Iterator[InputFile]:
    """Read every file once and cut it into shards of up to `batch_rows` rows; numbers go on from file to file.

    Raises:
        InvalidSetting: a file cannot be read to its end.
    """
    number = 0
    for path in files:
        cut = _cut_parquet if path.name.endswith(PARQUET_SUFFIX) else _cut_lines
        digest = hashlib.sha256()
        try:
            ranges = list(cut(path, batch_rows, digest))
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InvalidSetting(f"{path} cannot be read to its end: {' '.join(str(error).split())}") from error
        places = enumerate(ranges, start=number)
        shards = tuple(Shard(place, str(path.absolute()), str(path), *one) for place, one in places)
        number += len(shards)
        yield InputFile(str(path), digest.hexdigest(), shards)


class ShardReader:
    """Reads shards; in the order of a file it never reads a part of it twice, gzipped or not."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._path = ""
        self._lines: IO[bytes] | None = None
        self._rows: Iterator[Any] = iter(())
        self._next_row = 0

    def read(self, shard: Shard) -> list[Line]:
        """Return a shard's rows as lines with their numbers in the file.

        Raises:
            ArmoserveError: the file has changed since it was cut into shards.
        """
        if shard.path != self._path:
            self.close()
            self._path = shard.path
        return self._parquet_rows(shard) if shard.path.endswith(PARQUET_SUFFIX) else self._file_lines(shard)

    def close(self) -> None:
        """Let go of the file that is open."""
        if self._lines is not None:
            self._lines.close()
        self._lines, self._rows, self._next_row = None, iter(()), 0

    def _file_lines(self, shard: Shard) -> list[Line]:
        if self._lines is None:
            self._lines = _opened(Path(shard.path))
        self._lines.seek(shard.start)
        splitter, left = LineSplitter(self._max_line_bytes, shard.first_line), shard.stop - shard.start
        found: list[Line] = []
        checksum = 0
        while left and (chunk := self._lines.read(min(left, CHUNK_BYTES))):
            left -= len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            found += splitter.push(chunk)
        if left or checksum != shard.crc32:
            raise ArmoserveError(f"{shard.file} has changed since the run began")
        return [*found, *splitter.end()]

    def _parquet_rows(self, shard: Shard) -> list[Line]:
        if not self._next_row or shard.start < self._next_row:
            self._rows, self._next_row = _rows_of(shard.path), 0
        rows = islice(self._rows, shard.start - self._next_row, shard.stop - self._next_row)
        self._next_row = shard.stop
        return [self._row_line(number, row) for number, row in enumerate(rows, start=shard.first_line)]

    def _row_line(self, number: int, row: Any) -> Line:
        try:
            content = orjson.dumps(row.as_py(), default=_unsupported, option=orjson.OPT_PASSTHROUGH_DATETIME)
        except (ValueError, OverflowError) as error:  # text that is not UTF-8, or a time that Python has none for
            content = orjson.dumps(_unsupported(error))
        return Line(number, content if len(content) <= self._max_line_bytes else None)


def _cut_lines(path: Path, batch_rows: int, digest: "hashlib._Hash") -> Iterator[tuple[int, ...]]:
    """Yield first line, start, stop, number of rows and checksum of each range."""
    first, line, start, position, num_rows, checksum, is_blank = 1, 1, 0, 0, 0, 0, True
    with _opened(path) as file:
        for piece in iter(partial(file.readline, CHUNK_BYTES), b""):
            digest.update(piece)
            checksum = zlib.crc32(piece, checksum)
            content = piece.removeprefix(BOM_UTF8) if position == 0 else piece
            position += len(piece)
            is_blank = is_blank and (not content or content.isspace())
            if not piece.endswith(b"\n"):
                continue
            line, num_rows, is_blank = line + 1, num_rows + (not is_blank), True
            if num_rows == batch_rows or position - start >= MOST_SHARD_BYTES:
                yield first, start, position, num_rows, checksum
                first, start, num_rows, checksum = line, position, 0, 0
    num_rows += not is_blank
    if num_rows:
        yield first, start, position, num_rows, checksum


def _cut_parquet(path: Path, batch_rows: int, digest: "hashlib._Hash") -> Iterator[tuple[int, ...]]:
    from pyarrow import parquet  # noqa: PLC0415 - comes with an extra

    with path.open("rb") as file:
        for chunk in iter(partial(file.read, CHUNK_BYTES), b""):
            digest.update(chunk)
    names = parquet.read_schema(path).names
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise InvalidSetting(f"{path} has the column {twice[0]} twice; allowed: once")
    num_rows = parquet.read_metadata(path).num_rows
    for start in range(0, num_rows, batch_rows):
        stop = min(start + batch_rows, num_rows)
        yield start + 1, start, stop, stop - start


def _rows_of(path: str) -> Iterator[Any]:
    from pyarrow import parquet  # noqa: PLC0415 - comes with an extra

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from batch.to_struct_array()


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _unsupported(value: object) -> dict[str, str]:
    """Stand for what JSON has no word for: no field takes it, so that the row is refused and never read otherwise."""
    return {"unsupported": type(value).__name__}
