"""What each way of routing cost, as JSON, a table and a picture."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.results_files import listed, write_results
from benchmarks.scale_out.nginx import Routing
from benchmarks.scale_out.replicas import Tokens
from benchmarks.scale_out.traffic import Shape


@dataclass(slots=True)
class Run:
    """All requests, sent to so many replicas in one way."""

    replicas: int
    routing: Routing
    requests_per_second: float
    tokens: Tokens
    busiest_replica_tokens: int
    p50_ms: float
    p99_ms: float
    largest_score_difference: float = 0.0
    """From the scores of one replica."""

    def figures(self) -> dict[str, Any]:
        """Return all of it, by name."""
        logical = self.tokens.logical
        return asdict(self) | {
            "cached_share": self.tokens.cached / logical,
            "busiest_over_mean": self.busiest_replica_tokens * self.replicas / logical,
        }


def table(runs: Sequence[Run]) -> str:
    """Return a row per run."""
    titles = "replicas | routing | requests/s | computed tokens | cached | shared in a pack | busiest over mean"
    lines = [f"| {titles} | p50, ms | p99, ms | scores differ by |", "| ---: | --- |" + " ---: |" * 8]
    return "\n".join([*lines, *(_row(run) for run in runs)])


def _row(run: Run) -> str:
    logical, figures = run.tokens.logical, run.figures()
    routing = run.routing if run.replicas > 1 else "–"
    cells = [
        f"{run.requests_per_second:.1f}",
        f"{run.tokens.computed:,}",
        f"{figures['cached_share']:.0%}",
        f"{run.tokens.shared / logical:.0%}",
        f"{figures['busiest_over_mean']:.2f}",
        f"{run.p50_ms:.0f}",
        f"{run.p99_ms:.0f}",
        f"{run.largest_score_difference:.0e}",
    ]
    return f"| {run.replicas} | {routing} | {' | '.join(cells)} |"


def write(folder: Path, machine: dict[str, str], shape: Shape, runs: Sequence[Run]) -> None:
    """Write scale_out.json, scale_out.md and scale_out.png."""
    document = {"machine": machine, "shape": asdict(shape), "runs": [run.figures() for run in runs]}
    asked = (
        f"{shape.requests} requests through nginx, {shape.in_flight} at a time: {shape.prompts} prompts of about "
        f"{shape.prompt_tokens} tokens come back in {shape.epochs} epochs, each time with {shape.responses} new "
        f"responses of about {shape.response_tokens}, a request each. A replica's cache holds "
        f"{shape.remembered_share:.0%} of the prompts."
    )
    seconds = (
        "All replicas share the cores of one machine, on which more of them cannot be faster than one: what they "
        "compute is to be compared, and that every score is that of one replica; seconds show no more than that it "
        "works under load."
    )
    title = "# Replicas behind a balancer, with and without routing by prompt"
    write_results(folder, "scale_out", document, title, asked, table(runs), seconds, listed(machine))
    draw(folder / "scale_out.png", runs)


def draw(path: Path, runs: Sequence[Run]) -> None:
    """Draw the cached share and the computed tokens over the number of replicas, a line per way of routing."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and not every run draws

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    alone = [run for run in runs if run.replicas == 1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for routing in dict.fromkeys(run.routing for run in runs if run.replicas > 1):
        ours = [*alone, *(run for run in runs if run.replicas > 1 and run.routing == routing)]
        places = [run.replicas for run in ours]
        left.plot(places, [100 * run.tokens.cached / run.tokens.logical for run in ours], marker="o", label=routing)
        right.plot(places, [run.tokens.computed / 1000 for run in ours], marker="o")
    left.set(xlabel="replicas", ylabel="tokens from the prefix cache, %", xticks=sorted({run.replicas for run in runs}))
    right.set(xlabel="replicas", ylabel="thousand tokens computed", xticks=sorted({run.replicas for run in runs}))
    left.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
