"""The policy report's learning curves and what the service was asked for: from the logs of runs alone.

A run is one recipe under several seeds. Knows no algorithm: whatever a log has a column for is drawn.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.figures.axis import Axis
from training.figures.markup import Element, figure, folded, missing, table
from training.figures.numbers import NOTHING, count, number
from training.figures.plane import Plane, Point, plots
from training.figures.strips import legend
from training.logs import STEP, read_log
from training.policy.metering import LOGICAL, METERED, service_figures

FAILED: Final = "failed_rewards"
NOT_DRAWN: Final = (STEP, *METERED, FAILED)
STAGE_LOGS: Final = "logs/*.csv"
DPA_LOGS: Final = "dpa/iteration_*/log.csv"
FIRST: Final = ("reward_mean", "kl", "response_tokens", "loss", "validation_loss", "accuracy")
"""Columns that are drawn at once, in this order; all others are folded away."""
MOST_POINTS: Final = 120
LAST_SHARE: Final = 0.1
Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class RunLogs:
    """One log of a run, once per seed."""

    run: str
    log: str
    seeds: Mapping[str, Rows]
    """Rows by the name of the seed's work folder."""

    @property
    def columns(self) -> list[str]:
        """The columns that any seed has told something of."""
        rows = [row for seed in self.seeds.values() for row in seed]
        names = dict.fromkeys(name for row in rows for name in row)
        return [name for name in names if any(math.isfinite(row.get(name, math.nan)) for row in rows)]

    def values(self, seed: str, column: str) -> list[Point]:
        """Return step and value of a column, where it has one that is finite."""
        told = ((row[STEP], row.get(column, math.nan)) for row in self.seeds[seed])
        return [(step, value) for step, value in told if math.isfinite(value)]

    def mean(self, column: str) -> list[Point]:
        """Return the mean over seeds at the steps that all seeds tell of."""
        by_seed = [dict(self.values(seed, column)) for seed in self.seeds]
        steps = sorted(set.intersection(*(set(each) for each in by_seed)))
        return [(step, math.fsum(each[step] for each in by_seed) / len(by_seed)) for step in steps]

    def total(self, column: str) -> float | None:
        """Return the sum of a column over all seeds, None where none has it."""
        values = [value for seed in self.seeds for _, value in self.values(seed, column)]
        return math.fsum(values) if values else None


def read_runs(
    runs: Mapping[str, Sequence[Path]], pattern: str = STAGE_LOGS, name: str = ""
) -> tuple[list[RunLogs], list[str]]:
    """Read the logs of every run, those of a work folder together where `name` is theirs; say what cannot be read."""
    found: dict[tuple[str, str], dict[str, list[Mapping[str, float]]]] = {}
    problems = []
    for run, folders in runs.items():
        for folder in folders:
            for path in sorted(folder.glob(pattern)):
                try:
                    rows = read_log(path)
                except (ValueError, UnicodeDecodeError):
                    problems.append(f"{run}: {path.name} of {folder.name} cannot be read as a log.")
                    continue
                if rows and STEP in rows[0]:
                    found.setdefault((run, name or path.stem), {}).setdefault(folder.name, []).extend(rows)
                else:
                    problems.append(f"{run}: {path.name} of {folder.name} has no row, or no step.")
    return [RunLogs(run, log, seeds) for (run, log), seeds in found.items()], problems


def learning_section(runs: Mapping[str, Sequence[Path]]) -> list[Element]:
    """Draw every column of every log: one thin line per seed, their mean thick."""
    logs, problems = read_runs(runs)
    said = [missing(problem) for problem in problems]
    if not logs:
        return [*said, missing("There are no learning curves: no run has left a log.")]
    axes = {column: _axis(logs, column) for each in logs for column in each.columns}
    columns = dict.fromkeys(column for each in logs for column in each.columns)
    first, others = (
        [plots(drawn) for column in names if (drawn := [plot for each in logs for plot in _plots(each, column, axes)])]
        for names in (FIRST, [column for column in columns if column not in FIRST])
    )
    caption = (
        "Against the step, as the runs logged them: a thin line per seed, the mean of the seeds thick, over the steps "
        "that all seeds have taken. Plots of one quantity have one vertical axis, which need not begin at 0. The title "
        f"says the mean over the last {LAST_SHARE:.0%} of the steps, and the range of the seeds."
    )
    key = legend([("curve faint", "first", "one seed"), ("curve", "first", "mean of the seeds")])
    drawn = [figure("By step, run and seed", caption, key, *first)] if first else []
    rest = [folded("Everything else that was logged", *others)] if others else []
    return [*drawn, *rest, *said]


def _axis(logs: Sequence[RunLogs], column: str) -> Axis:
    return Axis.around(
        (value for each in logs for seed in each.seeds for _, value in thinned(each.values(seed, column))), least=0.01
    )


def _plots(logs: RunLogs, column: str, axes: Mapping[str, Axis]) -> Iterator[Element]:
    if column in NOT_DRAWN or column not in logs.columns:
        return
    last = max(row[STEP] for rows in logs.seeds.values() for row in rows)
    name = column.replace("_", " ")
    plane = Plane(Axis(0.0, max(last, 1.0)), axes[column], STEP, name)
    content = [
        drawn
        for seed in logs.seeds
        for drawn in plane.curve(thinned(logs.values(seed, column)), "first faint", f"{logs.run}, {seed}: {name}")
    ]
    content += plane.curve(thinned(logs.mean(column)), "first", f"{logs.run}: {name}, mean of {len(logs.seeds)} seeds")
    yield plane.drawn(f"{named(logs.run, logs.log)}: {name}, in the end {_last(logs, column)}", content)


def named(run: str, part: str) -> str:
    """Name a part of a run, such as a log or a policy, but for what the run's own name says."""
    spaced = part.replace("_", " ")
    return run if spaced.casefold() in run.replace("_", " ").casefold() else f"{run}: {spaced}"


def _last(logs: RunLogs, column: str) -> str:
    """Say the mean over the last steps of each seed: their mean, and from where to where they lie."""
    ends = []
    for seed in logs.seeds:
        if values := [value for _, value in logs.values(seed, column)]:
            kept = values[-max(1, round(LAST_SHARE * len(values))) :]
            ends.append(math.fsum(kept) / len(kept))
    mean = number(math.fsum(ends) / len(ends))
    return f"{mean} ({number(min(ends))} to {number(max(ends))}, {len(ends)} seeds)" if len(ends) > 1 else mean


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most MOST_POINTS points: means over runs of rows."""
    run = -(-len(points) // MOST_POINTS) or 1
    parts = [points[start : start + run] for start in range(0, len(points), run)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def service_section(runs: Mapping[str, Sequence[Path]]) -> list[Element]:
    """Say what the service was asked for, what it computed, and how fast, as the logs of the runs have it."""
    (of_stages, _), (of_dpa, problems) = read_runs(runs), read_runs(runs, DPA_LOGS, "dpa")
    said = [missing(problem) for problem in problems]
    logs = [each for each in [*of_stages, *of_dpa] if each.total(LOGICAL)]
    if not logs:
        return [*said, missing("No run has logged the tokens that it asked the service for.")]
    header = ("run", "seeds", *service_figures([]), "without a reward")
    caption = (
        "Tokens of prompts and responses as if nothing were shared, those that the service computed for them, and the "
        "share that sharing and caching prompts spared. Tokens/s while asked: tokens sent by the seconds in which the "
        "run waited for rewards; time on rewards: these seconds' share of its time, sampling and learning included. "
        "Of DPA, what its iterations sampled: all of them together, fine-tuning left out. "
        "Without a reward: responses that the service gave an error for; none of them is counted as a number."
    )
    rows = [_service_row(each) for each in logs]
    return [figure("What the service was asked for", caption, table(header, rows)), *said]


def _service_row(logs: RunLogs) -> tuple[str, ...]:
    failed = logs.total(FAILED)
    without = NOTHING if failed is None else count(round(failed))
    figures = service_figures([row for rows in logs.seeds.values() for row in rows])
    return (named(logs.run, logs.log), str(len(logs.seeds)), *figures.values(), without)
