"""What was measured, as JSON, as tables, and as one picture."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.peers.growth import Curve
from benchmarks.peers.rounds import TOLERANCE, Comparison
from benchmarks.peers.service_cost import Ratio, SeenAgain
from benchmarks.results_files import listed, write_results


@dataclass(slots=True)
class Measured:
    """All of one run."""

    facts: dict[str, str]
    workloads: dict[str, str]
    """Name → description."""
    comparisons: list[Comparison] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    seen_again: SeenAgain | None = None
    curves: list[Curve] = field(default_factory=list)


def write(folder: Path, measured: Measured) -> None:
    """Write peers.json, peers.md and, where curves were measured, peers.png."""
    write_results(folder, "peers", asdict(measured), *sections(measured))
    if measured.curves:
        draw(folder / "peers.png", measured.curves)


def sections(measured: Measured) -> list[str]:
    """Return all of it as parts of one page."""
    return [
        "# armoserve beside what else one would use",
        "Seconds are CPU seconds of the process that computes, medians over rounds that alternate and have texts of "
        "their own; wall-clock ratios stand beside. Every engine's scores were compared with the first one's in every "
        "round: the largest difference, over their spread, is in the last column. Time ratios are over the padded "
        "batches of the same round; above 1 is faster. Computed tokens include padding. A server that others started "
        "is timed by the wall clock, and its scores may differ.",
        summary(measured.comparisons),
        detail(measured.comparisons),
        "## The service itself",
        ratio_table(measured.ratios),
        again(measured.seen_again),
        "## Cost as things grow, in CPU seconds",
        *(curve_table(axis, measured.curves) for axis in dict.fromkeys(curve.axis for curve in measured.curves)),
        "## What was measured, where",
        listed(measured.workloads | measured.facts),
    ]


def summary(comparisons: Sequence[Comparison]) -> str:
    """Return times as fast as padded batches: a row per engine, a column per workload."""
    workloads = list(dict.fromkeys(row.workload for row in comparisons))
    engines = list(dict.fromkeys(row.engine for row in comparisons))
    cells = {(row.engine, row.workload): f"{row.time_ratio:.2f}" for row in comparisons}
    lines = [f"| times as fast as padded batches | {' | '.join(workloads)} |", f"| --- |{' ---: |' * len(workloads)}"]
    lines += [f"| {one} | {' | '.join(cells.get((one, name), '–') for name in workloads)} |" for one in engines]
    return "\n".join(lines)


def detail(comparisons: Sequence[Comparison]) -> str:
    """Return a row per workload and engine."""
    lines = [
        "| workload | engine | s | tokens/s | time ratio (lowest – highest) | wall | computed | token ratio | differ |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in comparisons:
        spread = f"**{row.time_ratio:.2f}** ({row.time_ratio_lowest:.2f} – {row.time_ratio_highest:.2f})"
        engine = f"{row.engine}, by the wall clock" if row.by_wall_clock else row.engine
        differing = "" if row.largest_score_difference < TOLERANCE else ", **differing**"
        lines.append(
            f"| {row.workload} | {engine} | {row.seconds:.3f} | {row.tokens_per_second:,.0f} | {spread} "
            f"| {row.wall_ratio:.2f} | {row.computed_tokens:,} | {row.token_ratio:.2f} "
            f"| {row.largest_score_difference:.0e}{differing} |"
        )
    return "\n".join(lines)


def ratio_table(ratios: Sequence[Ratio]) -> str:
    """Return a row per ratio, with its target."""
    if not ratios:
        return ""
    lines = [
        "| | tokens/s | over | tokens/s | ratio (lowest – highest) | wall | target |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: |",
    ]
    for row in ratios:
        spread = f"**{row.ratio:.2f}** ({row.lowest:.2f} – {row.highest:.2f})"
        lines.append(
            f"| {row.name} | {row.tokens_per_second:,.0f} | {row.over} | {row.over_tokens_per_second:,.0f} "
            f"| {spread} | {row.wall_ratio:.2f} | ≥ {row.target} |"
        )
    return "\n".join(lines)


def again(seen: SeenAgain | None) -> str:
    """Return what a prompt costs the second time, in a sentence."""
    if seen is None:
        return ""
    return (
        f"A prompt of {seen.prompt_tokens} tokens seen again, with other responses of {seen.response_tokens} tokens: "
        f"{seen.computed_tokens} tokens computed, {seen.second_seconds:.3f} s where prompt and first responses took "
        f"{seen.first_seconds:.3f} s; scores within {seen.largest_score_difference:.0e} of those without a cache."
    )


def curve_table(axis: str, curves: Sequence[Curve]) -> str:
    """Return seconds at each place of one axis."""
    ours = [curve for curve in curves if curve.axis == axis]
    lines = [f"| {axis} | {' | '.join(ours[0].places)} |", f"| --- |{' ---: |' * len(ours[0].places)}"]
    lines += [f"| {curve.engine} | {' | '.join(f'{took:.3f}' for took in curve.seconds)} |" for curve in ours]
    return "\n".join(lines)


def draw(path: Path, curves: Sequence[Curve]) -> None:
    """Draw seconds over each axis, one plot each."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and not every run draws

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    axes = list(dict.fromkeys(curve.axis for curve in curves))
    engines = list(dict.fromkeys(curve.engine for curve in curves))
    figure, places = plt.subplots(1, len(axes), figsize=(4 * len(axes), 3.8), layout="constrained", squeeze=False)
    for axis, plot in zip(axes, places[0], strict=True):
        for curve in curves:
            if curve.axis == axis:
                colour = f"C{engines.index(curve.engine)}"
                plot.plot(curve.places, curve.seconds, marker="o", markersize=4, color=colour, label=curve.engine)
        plot.set(xlabel=axis, yscale="log")
        plot.grid(visible=True, which="both", alpha=0.25)
    places[0][0].set_ylabel("CPU seconds")
    named = {
        label: handle for plot in places[0] for handle, label in zip(*plot.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=len(named), frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)
