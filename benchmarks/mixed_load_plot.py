"""What a mixed load did over time: how long each request took, and how much memory the server held."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

Points: TypeAlias = Sequence[tuple[float, float]]
"""Monotonic seconds, and a value."""


def draw(path: Path, seconds: Mapping[str, Points], megabytes: Points) -> None:
    """Draw the seconds of requests, by kind, above the resident set, over minutes."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and not every run draws

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    start = megabytes[0][0]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(9, 6), layout="constrained")
    for kind, points in seconds.items():
        above.plot(*_columns(points, start), ".", markersize=3, label=kind)
    above.set(yscale="log", ylabel="seconds of a request")
    above.legend(loc="upper left")
    below.plot(*_columns(megabytes, start))
    below.set(xlabel="minutes", ylabel="resident set, MB", ylim=(0, None))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _columns(points: Points, start: float) -> tuple[list[float], list[float]]:
    return [(when - start) / 60 for when, _ in points], [value for _, value in points]
