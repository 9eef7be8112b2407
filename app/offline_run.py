"""The folder of a bulk run: what the run is, and one file per finished shard. Knows no model and no Ray.

    run.json             weights, options, inputs: what must be the same whenever the run goes on
    run.dtype.float32    in which numbers its replicas compute; empty
    part-000000.jsonl    the answers to shard 0, there only when all of them are

A run may be killed at any time: a shard's answers are written elsewhere and renamed once they are on the disk.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from app.errors import ArmoserveError, InvalidSetting
from app.offline_shards import InputFile, Shard

RUN_FILE: Final = "run.json"
LOCK_FILE: Final = "run.lock"
DTYPE_FILE: Final = "run.dtype."
"""And the dtype."""
FORMAT: Final = 1
ERROR_MARK: Final = b',"error":{"type":'
"""Inside a text its quotes would be escaped."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of output, and how many of them are errors."""

    num_rows: int = 0
    num_errors: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.num_rows + other.num_rows, self.num_errors + other.num_errors)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make the folder this process's own meanwhile.

    Raises:
        InvalidSetting: it cannot be written, holds something else, or another run writes to it now.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [path.name for path in folder.iterdir() if not _is_ours(path)]
        lock = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise InvalidSetting(f"--output {folder} cannot be written: it must be a folder of the run's own") from error
    with lock:
        if foreign:
            raise InvalidSetting(f"--output {folder} holds {foreign[0]}, which is no run's: choose an empty folder")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidSetting(f"--output {folder} is being written by another run") from error
        for torn in folder.glob("part-*.tmp"):
            torn.unlink()
        yield


def begin(folder: Path, revision: str, options: Mapping[str, Any], inputs: Sequence[InputFile]) -> None:
    """Write down what the run is, or see that it is the one that the folder holds.

    Raises:
        InvalidSetting: other weights, other options or other inputs; says which.
    """
    files = {one.file: {"sha256": one.sha256, "rows": one.num_rows, "shards": len(one.shards)} for one in inputs}
    wanted = {"format": FORMAT, "revision": revision, "options": dict(options), "inputs": files}
    path = folder / RUN_FILE
    if not path.exists():
        _write_whole(path, [json.dumps(wanted, indent=2).encode(), b"\n"])
        return
    try:
        held = json.loads(path.read_bytes())
        differences = list(_differences(held, wanted))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InvalidSetting(f"{path} describes no run") from error
    if differences:
        raise InvalidSetting(
            f"--output {folder} holds another run and cannot be gone on with: {'; '.join(differences[:4])}. "
            "Run with what it began with, or choose an empty folder"
        )


def check_dtype(folder: Path, dtype: str) -> None:
    """See that a replica computes in the numbers of the first one: `auto` may be others on another machine.

    Raises:
        InvalidSetting: it does not.
    """
    own = folder / f"{DTYPE_FILE}{dtype}"
    for _ in range(2):  # again, for two that begin at once
        others = [path.name.removeprefix(DTYPE_FILE) for path in folder.glob(f"{DTYPE_FILE}*") if path != own]
        if others:
            raise InvalidSetting(f"a replica computes in {dtype}, the run in {others[0]}; allowed: the same dtype")
        own.touch()


def part_of(folder: Path, shard: Shard) -> Path:
    """Return the file that holds a shard's answers once it is finished."""
    return folder / f"part-{shard.number:06d}.jsonl"


def write_part(folder: Path, shard: Shard, answers: Iterable[bytes]) -> None:
    """Write a finished shard: all of its answers, or nothing."""
    label = b'{"file":' + json.dumps(shard.file).encode() + b","
    _write_whole(part_of(folder, shard), (label + answer.removeprefix(b"{") + b"\n" for answer in answers))


def check_parts(folder: Path, shards: Iterable[Shard]) -> Counts:
    """Count all that was written, and see that each shard has an answer per row.

    Raises:
        ArmoserveError: one has not; names its file.
    """
    total = Counts()
    for shard in shards:
        path = part_of(folder, shard)
        counts = _counts(path)
        if counts.num_rows != shard.num_rows:
            raise ArmoserveError(
                f"{path} has {counts.num_rows} answers to {shard.num_rows} rows: delete it and run again"
            )
        total += counts
    return total


def _is_ours(path: Path) -> bool:
    """Say whether a file may be a run's: answers only where it is written down what they are answers to."""
    is_answers = path.name.startswith("part-")
    if is_answers and path.suffix != ".tmp":
        return path.with_name(RUN_FILE).exists()
    return is_answers or path.name.startswith("run.")


def _counts(path: Path) -> Counts:
    num_rows = num_errors = 0
    with path.open("rb") as lines:
        for line in lines:
            num_rows += 1
            num_errors += ERROR_MARK in line
    return Counts(num_rows, num_errors)


def _differences(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    if held["format"] != wanted["format"]:
        yield f"it has the format {held['format']}, not {wanted['format']}"
    if held["revision"] != wanted["revision"]:
        yield f"it has scores of the weights {held['revision']}, not {wanted['revision']}"
    for name, value in wanted["options"].items():
        if held["options"].get(name) != value:
            yield f"its {name} is {held['options'].get(name)}, not {value}"
    for file in [*wanted["inputs"], *(held["inputs"].keys() - wanted["inputs"].keys())]:
        if held["inputs"].get(file) != wanted["inputs"].get(file):
            yield f"{file} is not the input that it was"


def _write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file under another name and rename it once it is on the disk.

    The name is nobody else's: processes of two containers may have one number, and write the same part at once.
    """
    torn = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    with torn.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    torn.replace(path)
