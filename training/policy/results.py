"""What was measured of a policy, as JSON beside its logs. Knows neither how it was measured nor how it is shown."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DamagedArtifact
from training.records import Record, record_of


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean over prompts with its 95% bootstrap interval."""

    value: float
    low: float
    high: float
    num_prompts: int


@dataclass(frozen=True, slots=True)
class Cell:
    """What a judge says of the responses to prompts that ask for some levels; without targets, of plain prompts."""

    targets: dict[str, int]
    expected: dict[str, Measured]
    """Per head, the mean level Σ c · p[c]."""
    classified: dict[str, Measured]
    """Per head, the most probable level."""
    reward: Measured | None
    """The judge's mapped reward for these targets (Eq. 11); None where nothing is asked for, or nothing was scored."""
    num_responses: int
    num_failed: int
    """Responses that the judge could not classify: in no mean."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension, a cell per requested level (Fig. 5)."""

    name: str
    levels: int
    cells: tuple[Cell, ...]
    slope: Measured | None
    """Of the expected level against the requested one, within a prompt: 1 is perfect, 0 is indifference."""
    spearman: Measured | None
    """Rank correlation of the two within a prompt. Both are None where no prompt has a response at every level."""


@dataclass(frozen=True, slots=True)
class DimensionPair:
    """Two dimensions asked for at once, a cell per pair of levels (Fig. 6)."""

    first: str
    second: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Controllability:
    """How far one policy gives the levels that it is asked for, as one judge sees it."""

    policy: str
    judge: str
    plain: Cell
    """Of the prompts as they are."""
    dimensions: tuple[Dimension, ...]
    pairs: tuple[DimensionPair, ...]
    prompt_rewards: tuple[float | None, ...]
    """Of each prompt the mean of the mapped reward over all cells that ask for something; None where one has none."""
    reward: Measured | None
    """Their mean, in the units of this judge's own service: it compares policies, not judges."""
    over_sft: Measured | None
    """By how much they are above the SFT policy's, prompt by prompt; None where that was not compared."""


@dataclass(frozen=True, slots=True)
class ControllabilityResults:
    """One policy before all its judges, which were shown the same responses."""

    judges: tuple[Controllability, ...]
    num_prompts: int
    responses_per_prompt: int
    seed: int


def write_results(record: Any, path: Path) -> None:
    """Write a record as JSON; it appears when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    text = json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False, allow_nan=False)
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(path)


def read_results(kind: type[Record], path: Path) -> Record:
    """Read what `write_results` wrote.

    Raises:
        DamagedArtifact: it is not JSON, or has other fields than this version writes.
    """
    try:
        return record_of(kind, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedArtifact(f"{path.name} does not hold {kind.__name__}: measure again ({error})") from error
