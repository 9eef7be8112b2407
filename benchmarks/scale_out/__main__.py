"""Replicas behind nginx: what it saves to send a prompt's requests to one replica, and that no score changes.

    python -m benchmarks.scale_out [--quick] [--weights FOLDER] [--replicas N...] [--out FOLDER]

Every number of replicas gets the same requests, under each way of routing, from processes that begin with empty
caches; a replica's prefix cache holds less than half of the prompts. A replica computes on one thread. Replicas that
share cores cannot be faster than one that has them for itself: read the tokens, not the seconds.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args

import numpy as np

from app.domain import Item
from benchmarks.machine import describe
from benchmarks.peers.checkpoint import ClassifierSize, write_classifier
from benchmarks.peers.texts import Prose
from benchmarks.results_files import RESULTS
from benchmarks.scale_out.nginx import Nginx, Routing
from benchmarks.scale_out.replicas import Replica, Tokens, start_replicas, token_bytes, tokens_of
from benchmarks.scale_out.report import Run, table, write
from benchmarks.scale_out.traffic import Shape, items_of, send

QUICK: Final = Shape(prompts=12, responses=3, epochs=2, prompts_per_step=6, prompt_tokens=120, response_tokens=20)


async def study(weights: Path, numbers: Sequence[int], shape: Shape, routings: Sequence[Routing]) -> list[Run]:
    """Measure each number of replicas under each way of routing; one replica needs none."""
    items = items_of(shape, Prose(weights).texts)
    runs: list[Run] = []
    scores: tuple[float, ...] = ()
    for number in sorted({1, *numbers}):
        for routing in routings if number > 1 else routings[:1]:
            run, given = await _run(weights, number, routing, shape, items)
            scores = scores or given
            run.largest_score_difference = float(np.abs(np.subtract(given, scores)).max())
            runs.append(run)
            print(table([run]).splitlines()[-1], flush=True)
    return runs


async def _run(
    weights: Path, number: int, routing: Routing, shape: Shape, items: Sequence[Item]
) -> tuple[Run, tuple[float, ...]]:
    budget = int(shape.remembered_share * shape.prompts * shape.prompt_tokens * token_bytes(weights))
    settings = ["--weights", str(weights), "--drain-delay-seconds", "0", "--prefix-cache-bytes", str(budget)]
    with tempfile.TemporaryDirectory() as folder:
        replicas = await start_replicas(Path(folder), number, settings)
        nginx = Nginx(Path(folder), routing)
        try:
            nginx.start([replica.port for replica in replicas])
            sent = await send(nginx.url, items, shape.in_flight)
            tokens = [await tokens_of(replica) for replica in replicas]
        finally:
            nginx.stop()
            await _stop(replicas)
    p50, p99 = (1000 * float(np.percentile(sent.seconds, q)) for q in (50, 99))
    rate = len(items) / sent.total_seconds
    return Run(number, routing, rate, sum(tokens, Tokens()), max(one.logical for one in tokens), p50, p99), sent.scores


async def _stop(replicas: Sequence[Replica]) -> None:
    await asyncio.gather(*(replica.stop() for replica in replicas))


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, two replicas, two ways of routing, few requests"
    )
    parser.add_argument("--weights", type=Path, default=Path("weights/default"))
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the replicas, which inherit it
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        weights = write_classifier(Path(folder), ClassifierSize(1, 128)) if options.quick else options.weights
        shape, numbers = (QUICK, [2]) if options.quick else (Shape(), options.replicas)
        routings = get_args(Routing)[: 2 if options.quick else None]
        runs = asyncio.run(study(weights, numbers, shape, routings))
    print(table(runs))
    named = "1 layer, 128 wide" if options.quick else options.weights.name
    write(options.out, machine | {"weights": named}, shape, runs)


if __name__ == "__main__":
    main()
