"""The dashboard as one picture: its rows, its panels in their places, and what each query found. Knows no metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Points = Sequence[tuple[float, float]]
"""Unix seconds, and a value."""

COLUMNS: Final = 3
PANEL_INCHES: Final = (6.0, 2.3)
TITLE_SHARE: Final = 0.16
"""Height of a row's title beside a panel's."""
MOST_NAMES: Final = 10
NAME_LETTERS: Final = 26
UNITS: Final[Mapping[str, tuple[str, float]]] = {
    "s": ("seconds", 1),
    "bytes": ("MB", 1e-6),
    "percentunit": ("%", 100),
    "reqps": ("a second", 1),
    "ops": ("a second", 1),
    "cpm": ("a minute", 1),
}
"""Grafana's units: what is written beside the axis, and what values are multiplied by."""


@dataclass(frozen=True, slots=True)
class DrawnPanel:
    """A panel of Grafana, and its lines by name."""

    panel: Mapping[str, Any]
    lines: Mapping[str, Points]


def draw(path: Path, title: str, rows: Mapping[str, Sequence[DrawnPanel]]) -> None:
    """Draw all rows below each other."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and the queries are read without it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    heights = [height for drawn in rows.values() for height in (TITLE_SHARE, *[1.0] * -(-len(drawn) // COLUMNS))]
    size = (COLUMNS * PANEL_INCHES[0], sum(heights) * PANEL_INCHES[1])
    with plt.rc_context({"font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.grid": True}):
        figure = plt.figure(figsize=size, layout="constrained")
        figure.suptitle(title, fontsize=11)
        grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
        begin, end = _span(rows)
        place = 0
        for name, drawn in rows.items():
            _title(figure.add_subplot(grid[place, :]), name)
            for index, panel in enumerate(drawn):
                _panel(figure.add_subplot(grid[place + 1 + index // COLUMNS, index % COLUMNS]), panel, begin, end)
            place += 1 + -(-len(drawn) // COLUMNS)
        figure.savefig(path, dpi=80)
        plt.close(figure)


def _title(axes: Any, name: str) -> None:
    axes.set_axis_off()
    axes.text(0, 0.5, name, fontsize=13, fontweight="bold", va="center", transform=axes.transAxes)


def _span(rows: Mapping[str, Sequence[DrawnPanel]]) -> tuple[float, float]:
    times = [t for drawn in rows.values() for panel in drawn for line in panel.lines.values() for t, _ in line]
    return min(times), max(times)


def _panel(axes: Any, drawn: DrawnPanel, begin: float, end: float) -> None:
    axes.set_title(drawn.panel["title"], loc="left")
    if drawn.panel["type"] == "table":
        _table(axes, drawn.lines)
        return
    defaults = drawn.panel["fieldConfig"]["defaults"]
    unit, factor = UNITS.get(defaults["unit"], ("", 1))
    if defaults["custom"]["stacking"]["mode"] == "normal":
        _stack(axes, drawn.lines, begin, factor)
    else:
        for name, points in drawn.lines.items():
            axes.plot([(t - begin) / 60 for t, _ in points], [v * factor for _, v in points], linewidth=1, label=name)
    _threshold(axes, defaults, factor)
    axes.set(ylabel=unit, xlim=(0, (end - begin) / 60))
    if drawn.lines and defaults.get("min") == 0:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    if not drawn.lines:
        axes.text(0.5, 0.5, "no data", ha="center", transform=axes.transAxes)
    _legend(axes)


def _stack(axes: Any, lines: Mapping[str, Points], begin: float, factor: float) -> None:
    times = sorted({t for points in lines.values() for t, _ in points})
    heights = [[dict(points).get(t, 0.0) * factor for t in times] for points in lines.values()]
    axes.stackplot([(t - begin) / 60 for t in times], heights, labels=list(lines), alpha=0.5)


def _threshold(axes: Any, defaults: Mapping[str, Any], factor: float) -> None:
    for step in defaults.get("thresholds", {}).get("steps", ()):
        if step["value"] is not None:
            axes.axhline(step["value"] * factor, color="red", linewidth=0.8, linestyle="--")


def _legend(axes: Any) -> None:
    marks, names = axes.get_legend_handles_labels()
    if not names:
        return
    shown = [name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…" for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        shown[-1] = f"… {len(names) - MOST_NAMES + 1} more"
    axes.legend(marks[:MOST_NAMES], shown, fontsize=6.5, loc="upper left", bbox_to_anchor=(1, 1.03), frameon=False)


def _table(axes: Any, lines: Mapping[str, Points]) -> None:
    axes.set_axis_off()
    for index, (name, points) in enumerate(lines.items()):
        axes.text(0, 0.9 - 0.5 * index, f"{name}\nreplicas: {points[-1][1]:g}", va="top", transform=axes.transAxes)
