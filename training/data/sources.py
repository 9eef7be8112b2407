"""The ratings, preferences and benchmark pairs of a data folder, as typed rows. Knows files, no item and no token.

folder/ratings/*.jsonl.gz   folder/preferences/*.jsonl.gz   folder/benchmark/*.jsonl.gz
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from app.domain import Message
from training.data.jsonl import Row, data_files, prompt_group, prompt_of, read_rows, stable_fraction
from training.data.labelled import PreferencePair, RatedResponse
from training.data.objectives import objectives_of
from training.errors import InvalidData

SourceRow = TypeVar("SourceRow", RatedResponse, PreferencePair)
TRAIN: Final = "train"
TEST: Final = "test"
RATINGS_ONLY_SOURCES: Final = frozenset({"truthfulqa_human"})
"""Published for training judges: used for ratings, never for language modelling or a tokenizer."""


@dataclass(frozen=True, slots=True)
class BenchmarkPair:
    """One pair that is only ever measured; `group` joins the pairs that are averaged first."""

    subset: str
    section: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    group: str
    overlaps_training: bool = False


def read_ratings(folder: Path, split: str) -> Iterator[RatedResponse]:
    """Yield the rated responses of one split, ratings mapped to [0, 1].

    Raises:
        InvalidData: a file or a row does not fit, or rates an objective that the table does not have.
    """
    for source, path in data_files(folder / "ratings").items():
        table = objectives_of(source)
        for row in read_rows(path, ("split", "messages", "response", "ratings")):
            if row["split"] != split:
                continue
            if unknown := row["ratings"].keys() - table.keys():
                raise InvalidData(f"{path.name} rates {', '.join(sorted(unknown))}, which no objective of {source} is")
            ratings = {table[key].name: table[key].to_unit(value) for key, value in row["ratings"].items()}
            prompt = prompt_of(row, path)
            yield RatedResponse(source, prompt_group(row, prompt), prompt, str(row["response"]), ratings)


def read_preferences(folder: Path, split: str) -> Iterator[PreferencePair]:
    """Yield the preference pairs of one split.

    Raises:
        InvalidData: a file or a row does not fit.
    """
    for source, path in data_files(folder / "preferences").items():
        for row in read_rows(path, ("split", "messages", "chosen", "rejected")):
            if row["split"] == split:
                prompt = prompt_of(row, path)
                group = prompt_group(row, prompt)
                yield PreferencePair(source, group, prompt, str(row["chosen"]), str(row["rejected"]))


def read_benchmark(folder: Path) -> Iterator[BenchmarkPair]:
    """Yield every benchmark pair, those that overlap the training data marked.

    Raises:
        InvalidData: a file or a row does not fit.
    """
    for subset, path in data_files(folder / "benchmark").items():
        for row in read_rows(path, ("section", "prompt", "chosen", "rejected", "id")):
            yield _benchmark_pair(subset, row, path)


def _benchmark_pair(subset: str, row: Row, path: Path) -> BenchmarkPair:
    return BenchmarkPair(
        subset=subset,
        section=str(row["section"]),
        prompt=prompt_of(row, path),
        chosen=str(row["chosen"]),
        rejected=str(row["rejected"]),
        group=str(row.get("group", row["id"])),
        overlaps_training=bool(row.get("overlaps_training", False)),
    )


def keep_some(rows: Iterable[SourceRow], max_per_source: int) -> list[SourceRow]:
    """Keep at most `max_per_source` rows of each source, chosen by a hash of the row: the same ones every time."""
    by_source: dict[str, list[SourceRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    kept: list[SourceRow] = []
    for members in by_source.values():
        members.sort(key=lambda row: stable_fraction(repr(row), "sample"))
        kept += members[:max_per_source]
    return kept


def is_validation(group: str, share: float) -> bool:
    """Say whether a group of prompts belongs to the validation part carved from the train split."""
    return stable_fraction(group, "validation") < share
