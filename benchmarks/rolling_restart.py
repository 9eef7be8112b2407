"""Replicas behind nginx, replaced one after the other under load: is any request lost, and what does it cost?

    python -m benchmarks.rolling_restart [--quick] [--weights FOLDER] [--replicas 3] [--seconds 10] [--out FOLDER]

Three times: nothing happens; every replica is stopped (SIGTERM) and another started in its place; and the same into
other weights. Whoever is not ready leaves nginx's upstream, as Kubernetes takes it from a service's endpoints. Callers
of two kinds ask all the while, ours and a trainer's plain posts, and try nothing twice. Every answer must hold the
scores of one revision, the one that it names.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.machine import describe
from benchmarks.peers.checkpoint import ClassifierSize, write_classifier
from benchmarks.results_files import RESULTS, listed, write_results
from benchmarks.scale_out.callers import CALLERS, ITEMS_AT_ONCE, Answer, Load
from benchmarks.scale_out.endpoints import PROBE_SECONDS, Cluster
from benchmarks.scale_out.nginx import Nginx
from benchmarks.scale_out.replicas import start_replicas

DRAIN_DELAY_SECONDS: Final = 2.0
"""Long enough for the change of /readyz to be noticed, and for nginx to have heard of it."""


async def measure(weights: Path, others: Path, number: int, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """Return the figures of the three phases."""
    drain = ["--drain-delay-seconds", str(DRAIN_DELAY_SECONDS)]
    same, other = (["--weights", str(one), *drain] for one in (weights, others))
    replicas = await start_replicas(folder, number, same)
    cluster = Cluster(folder, Nginx(folder, "prompt key"), replicas)
    return await roll_under_load(cluster, {"none": None, "the same weights": same, "other weights": other}, seconds)


async def roll_under_load(
    cluster: Cluster, phases: Mapping[str, Sequence[str] | None], seconds: float
) -> list[dict[str, Any]]:
    """Return the figures of each phase: into which settings replicas are replaced; None for none. End them all."""
    cluster.nginx.start([replica.port for replica in cluster.replicas])
    load = Load(cluster.nginx.url)
    watching, asking = asyncio.create_task(cluster.keep_endpoints()), None
    try:
        await cluster.learn(cluster.replicas[0])
        asking = asyncio.create_task(load.run())
        bounds = [await _phase(cluster, settings, seconds) for settings in phases.values()]
        load.is_over = True
        await asking
    finally:
        for task in (watching, asking):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        cluster.nginx.stop()
        await asyncio.gather(*(replica.stop() for replica in cluster.replicas))
    return [figures(name, cluster, load.answers, *bound) for name, bound in zip(phases, bounds, strict=True)]


async def _phase(cluster: Cluster, settings: Sequence[str] | None, seconds: float) -> tuple[float, float]:
    began = time.monotonic()
    if settings is None:
        await asyncio.sleep(seconds)
    else:
        await cluster.roll(settings)
        await asyncio.sleep(2 * PROBE_SECONDS)
    return began, time.monotonic()


def figures(name: str, cluster: Cluster, answers: Sequence[Answer], since: float, until: float) -> dict[str, Any]:
    """Return what came of the requests that began in between."""
    ours = [one for one in answers if since <= one.began < until]
    failed = Counter(one.failure for one in ours if one.failure)
    revisions = [cluster.revision_of(one) for one in ours if not one.failure]
    p50, p99 = (1000 * float(np.percentile([one.seconds for one in ours], q)) for q in (50, 99))
    return {
        "restart": name,
        "seconds": round(until - since, 1),
        "sent": dict(Counter(one.kind for one in ours)),
        "failed": sum(failed.values()),
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "answers_by_revision": dict(Counter(one for one in revisions if one is not None)),
        "of_no_one_revision": revisions.count(None),
        "failures": dict(failed),
    }


def table(phases: Sequence[dict[str, Any]]) -> str:
    """Return a row per phase."""
    lines = [
        "| restart into | seconds | sent by our client | by a trainer | failed | p50, ms | p99, ms | answers by revision | of no one revision |",  # noqa: E501
        "| --- |" + " ---: |" * 6 + " --- | ---: |",
    ]
    for one in phases:
        revisions = ", ".join(f"{revision}: {count:,}" for revision, count in one["answers_by_revision"].items())
        sent = [f"{one['sent'].get(kind, 0):,}" for kind in ("client", "trainer")]
        cells = [one["restart"], one["seconds"], *sent, one["failed"], one["p50_ms"], one["p99_ms"], revisions]
        lines.append(f"| {' | '.join(map(str, cells))} | {one['of_no_one_revision']} |")
    return "\n".join(lines)


def write(folder: Path, facts: dict[str, str], phases: Sequence[dict[str, Any]]) -> None:
    """Write rolling_restart.json and rolling_restart.md."""
    title = "# Replicas replaced one after the other, under load"
    asked = (
        f"{CALLERS} callers of our client, {ITEMS_AT_ONCE} items a request, and {CALLERS} that post to `/get_reward`, "
        "through nginx, without a pause and without a second try. All replicas share the cores of one machine, on "
        "which a new one that loads its weights takes time from those that answer."
    )
    document = {"machine": facts, "phases": list(phases)}
    write_results(folder, "rolling_restart", document, title, asked, table(phases), listed(facts))


def main() -> int:
    """Measure, print the table and write the results; 1 where a request failed or an answer mixes revisions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny model, two replicas, 3 seconds without a restart")
    parser.add_argument("--weights", type=Path, default=Path("weights/default"))
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the replicas, which inherit it
    facts = describe() | {"weights": "2 layers, 128 wide" if options.quick else options.weights.name}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        others = write_classifier(folder / "others", ClassifierSize(1, 128))
        weights = write_classifier(folder / "tiny", ClassifierSize(2, 128)) if options.quick else options.weights
        number, seconds = (2, 3.0) if options.quick else (options.replicas, options.seconds)
        phases = asyncio.run(measure(weights, others, number, seconds, folder))
    print(table(phases))
    for one in phases:
        print(*(f"{count} × {failure}" for failure, count in one["failures"].items()), sep="\n")
    write(options.out, facts, phases)
    return int(any(one["failed"] or one["of_no_one_revision"] for one in phases))


if __name__ == "__main__":
    raise SystemExit(main())
