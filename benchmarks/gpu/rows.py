"""What was measured, as rows of a table and as files. Knows no tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.results_files import listed, write_results

MARKS: Final = {True: "yes", False: "**no**", None: "–"}
VALID: Final = "Every check passed before anything was timed."
UNCHECKED: Final = "Nothing was checked in this run: the checks are `--rows checks`."
INVALID: Final = "**Checks failed: the figures below say nothing until they pass.**"


@dataclass(frozen=True, slots=True)
class Row:
    """One goal: how it is measured, what was wanted, what was found."""

    goal: str
    how: str
    target: str
    measured: str
    is_met: bool | None = None
    """None where the row has no target of its own, or was not measured."""
    next: str = ""
    """What would come next, or why there is no figure."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The numbers behind the words, in the units that their names say."""


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| goal | how it is measured | target | measured | met | next |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = (row.goal, row.how, row.target, row.measured, MARKS[row.is_met], row.next or "–")
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join(lines)


def write(folder: Path, name: str, found: tuple[Sequence[Row], Sequence[Row]], facts: Mapping[str, str]) -> None:
    """Write checks and rows as NAME.json and NAME.md, over what an earlier section of the same run wrote."""
    checks, rows = found
    document = {"facts": dict(facts), "checks": [asdict(row) for row in checks], "rows": [asdict(row) for row in rows]}
    verdict = UNCHECKED if not checks else VALID if all_met(checks) else INVALID
    sections = ("# The GPU path", verdict, table(rows), "## Checks", table(checks), listed(facts))
    write_results(folder, name, document, *sections)


def all_met(checks: Sequence[Row]) -> bool:
    """Say whether no check failed; one that could not run here is none that failed."""
    return all(check.is_met is not False for check in checks)
