"""Where a request's time goes on the CPU: kinds of kernel in the forward pass, tokenisation, HTTP, the rest.

    python -m benchmarks.cpu_profile [--weights weights/default] [--rounds 40]

Two shapes of request go to a server of its own, one at a time, each prompt a new one so that none is recalled. The
client's clock holds all; `Server-Timing` what of it lies within the service, and the answer's timings what of that are
tokenisation, the wait for the engine and the forward pass, whose kinds torch's profiler tells apart in this process.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import torch

from app.domain import Item, Message
from app.loading import load_checked_engine
from app.pack_builder import pack_of
from app.settings import Settings
from benchmarks.kernel_kinds import shares
from benchmarks.machine import describe
from benchmarks.results_files import RESULTS, listed, write_results
from benchmarks.server_process import WatchedServer

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"one short conversation": (20, 1, 25), "best-of-16": (120, 16, 30)}
"""Name → words of the prompt, responses, words of each: so few that all fit the first packs, which are short."""
SENTENCE = "the model answers a question about rivers and says what it knows before it stops because more is not asked"
SENT = "HTTP and JSON: client, socket, both ends"
TOKENISED = "tokenisation"
WAITED = "wait for the engine"
REST = "the rest of the service"


def text(words: int, seed: int) -> str:
    """Return so many words, in an order of its own."""
    known = SENTENCE.split()
    return " ".join(known[(7 * number * (seed + 1) + seed * number * number) % len(known)] for number in range(words))


def requests(shape: str, rounds: int) -> Iterator[tuple[str, list[str]]]:
    """Yield prompts that begin differently, each with its responses."""
    prompt_words, responses, response_words = SHAPES[shape]
    for number in range(rounds):
        prompt = f"{number} {text(prompt_words, number)}"
        yield prompt, [text(response_words, number + place + 1) for place in range(responses)]


def server_milliseconds(header: str) -> float:
    """Return the time up to the answer, the last that a Server-Timing header names."""
    return float(header.rpartition("dur=")[2])


def stages(port: int, shape: str, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each part of a request, forward pass included, after a few not counted."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    measured: list[dict[str, float]] = []
    for prompt, responses in requests(shape, rounds + 3):
        body = json.dumps({"items": [{"prompt": prompt, "responses": responses}]})
        began_at = time.perf_counter()
        connection.request("POST", "/score", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content: dict[str, Any] = json.loads(answer.read())
        total = 1000 * (time.perf_counter() - began_at)
        inside = server_milliseconds(answer.headers["Server-Timing"])
        timings = content["timings_ms"]
        known = timings["tokenize"] + timings["queue"] + timings["forward"]
        measured.append(
            {
                SENT: total - inside,
                TOKENISED: timings["tokenize"],
                WAITED: timings["queue"],
                "forward": timings["forward"],
                REST: inside - known,
            }
        )
    connection.close()
    return {part: statistics.median(one[part] for one in measured[3:]) for part in measured[0]}


async def served_stages(weights: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return the parts of each shape of request, from a server that is started and stopped."""
    with tempfile.TemporaryDirectory() as folder:
        server = WatchedServer(Path(folder), ["--weights", weights, "--drain-delay-seconds", "0"])
        await server.start()
        try:
            return {shape: await asyncio.to_thread(stages, server.port, shape, rounds) for shape in SHAPES}
        finally:
            await server.stop()


def kernel_shares(weights: str) -> dict[str, dict[str, float]]:
    """Return the share of each kind of kernel in a forward pass, for each shape of request."""
    engine = load_checked_engine(Settings(weights=weights, prefix_cache_bytes=0))
    found = {}
    for shape in SHAPES:
        prompt, responses = next(requests(shape, 1))
        encoded = engine.encode(Item((Message("user", prompt),), tuple(responses)), "never")
        pack = pack_of(encoded.conversations)
        found[shape] = shares(torch.device("cpu"), partial(engine.forward, pack))
    return found


def parts_of(stage: Mapping[str, float], kernels: Mapping[str, float]) -> dict[str, float]:
    """Return milliseconds by part, the forward pass in its kinds of kernel, largest first."""
    forward = {f"forward: {kind}": share * stage["forward"] for kind, share in kernels.items()}
    others = {part: milliseconds for part, milliseconds in stage.items() if part != "forward"}
    return dict(sorted((forward | others).items(), key=lambda part: -part[1]))


def table(parts: dict[str, dict[str, float]]) -> str:
    """Return one table for all shapes."""
    names = list(dict.fromkeys(name for found in reversed(parts.values()) for name in found))
    lines = ["| part | " + " | ".join(parts) + " |", "| --- |" + " --- |" * len(parts)]
    totals = {shape: sum(found.values()) for shape, found in parts.items()}
    for name in names:
        cells = [
            f"{found.get(name, 0.0):.2f} ms, {found.get(name, 0.0) / totals[shape]:.0%}"
            for shape, found in parts.items()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "| **all** | " + " | ".join(f"**{total:.2f} ms**" for total in totals.values()) + " |"])


def write(folder: Path, parts: dict[str, dict[str, float]], facts: Mapping[str, str]) -> None:
    """Write cpu_profile.json and cpu_profile.md."""
    document = {"facts": dict(facts), "milliseconds": {shape: dict(found) for shape, found in parts.items()}}
    shapes = "\n".join(f"- {name}: a prompt of {p} words, {n} × {r} words" for name, (p, n, r) in SHAPES.items())
    title = "# Where a request's time goes, on the CPU"
    note = "Medians of one request at a time; no prompt is recalled."
    write_results(folder, "cpu_profile", document, title, note, table(parts), f"{shapes}\n{listed(facts)}")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_profile", description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=str(ROOT / "weights" / "default"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print the table and write the results."""
    options = parse_options()
    measured = asyncio.run(served_stages(options.weights, options.rounds))
    kernels = kernel_shares(options.weights)
    parts = {shape: parts_of(measured[shape], kernels[shape]) for shape in SHAPES}
    print(table(parts))
    load = f"{os.getloadavg()[0]:.1f} processes wanted to run, on average over the last minute"
    facts = describe() | {"model": Path(options.weights).name, "rounds": str(options.rounds), "load": load}
    write(options.out, parts, facts)


if __name__ == "__main__":
    main()
