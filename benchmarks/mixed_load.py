"""Interactive callers alone, and then beside a flood of bulk work; one caller in five breaks off. Is memory flat?

    python -m benchmarks.mixed_load [--minutes 10] [--weights FOLDER] [--dtype float32] [--plot FILE.png] [--out FOLDER]
        [--setting value]...

A quarter of the time five interactive callers post one item after the other, with pauses, and for the rest of it five
bulk callers post many items at once beside them, without a pause. Each has an address of its own, so that callers take
turns. The first caller of each kind closes its connection somewhere in the middle. Every answer is held against the
scores that the same items were given alone. Settings go to the server as they are.
"""

import argparse
import asyncio
import json
import math
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.machine import describe
from benchmarks.mixed_load_plot import draw
from benchmarks.results_files import RESULTS, listed, write_results
from benchmarks.server_process import WatchedServer, resident_megabytes

NUM_TEXTS: Final = 60
CALLERS: Final = 5
"""Of each kind; the first one breaks off."""
BULK_ITEMS: Final = 32
THINK_SECONDS: Final = 0.5
"""Mean pause of an interactive caller."""
INTERACTIVE_SHARE: Final = 0.25
"""Of the time, in which interactive callers are alone."""
LEAVES_WITHIN_SECONDS: Final = {"interactive": 0.3, "bulk": 8.0}
TOLERANCES: Final = {"float32": 1e-3, "bfloat16": 0.13, "float16": 0.014}
"""The same text is in packs of many sizes; those of half precision are the canary's."""
SAMPLE_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """One request that was answered right."""

    began: float
    seconds: float
    tokens: int


@dataclass(frozen=True, slots=True)
class PackTime:
    """One forward pass."""

    ended: float
    seconds: float
    tokens: int


@dataclass
class Load:
    """Callers of both kinds, and what came of their requests."""

    server: WatchedServer
    tolerance: float
    scores: list[float] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=lambda: {"interactive": [], "bulk": []})
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {"interactive": Counter(), "bulk": Counter()})
    faults: Counter[str] = field(default_factory=Counter)

    async def learn(self) -> None:
        """Ask for the right scores, each alone."""
        for number in range(NUM_TEXTS):
            content = await self._exchange(body_of([number], "interactive"), "127.0.0.1")
            self.scores.append(json.loads(content)["results"][0]["scores"][0])

    async def call(self, kind: str, place: int, until: float) -> None:
        """Be one caller until then."""
        chance = random.Random(f"{kind}{place}")  # noqa: S311 - not for secrets
        while (began := time.monotonic()) < until:
            numbers = [chance.randrange(NUM_TEXTS) for _ in range(BULK_ITEMS if kind == "bulk" else 1)]
            patience = chance.uniform(0.0, LEAVES_WITHIN_SECONDS[kind]) if place == 0 else None
            address = f"127.0.{1 + (kind == 'bulk')}.{1 + place}"
            self.counts[kind]["sent"] += 1
            try:
                async with asyncio.timeout(patience) as leaving:
                    content = await self._exchange(body_of(numbers, kind), address)
                self._count(
                    kind, self._verdict(numbers, content), Answer(began, time.monotonic() - began, tokens(content))
                )
            except (OSError, ValueError) as error:  # a timeout of one's own is an OSError too
                gone = isinstance(error, TimeoutError) and leaving.expired()
                self._count(kind, "cancelled" if gone else f"{type(error).__name__}: {error}")
            if kind == "interactive":
                await asyncio.sleep(chance.expovariate(1 / THINK_SECONDS))

    def _verdict(self, numbers: list[int], content: bytes) -> str:
        results = json.loads(content)["results"]
        right = len(results) == len(numbers) and all(
            "scores" in result and abs(result["scores"][0] - self.scores[number]) <= self.tolerance
            for number, result in zip(numbers, results, strict=True)
        )
        return "answered" if right else "a wrong score, or none"

    def _count(self, kind: str, verdict: str, answer: Answer | None = None) -> None:
        if verdict in ("answered", "cancelled"):
            self.counts[kind][verdict] += 1
        else:
            self.counts[kind]["failed"] += 1
            self.faults[f"{kind}: {verdict}"] += 1
        if answer is not None and verdict == "answered":
            self.answers[kind].append(answer)

    async def _exchange(self, body: bytes, address: str) -> bytes:
        """Post over a connection of its own, which is closed at once when the caller leaves.

        Raises:
            ValueError: a status that is not 200.
            OSError: no whole answer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, local_addr=(address, 0))
        try:
            head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + body)
            answer, _, content = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status = answer[9:12].decode()
        if status != "200":
            raise ValueError(status or "no answer")
        return content


@dataclass
class Memory:
    """The resident set of a process over time."""

    process_id: int
    samples: list[tuple[float, float]] = field(default_factory=list)
    """When (monotonic seconds), and megabytes."""

    async def watch(self) -> None:
        while True:
            self.samples.append((time.monotonic(), resident_megabytes(self.process_id)))
            await asyncio.sleep(SAMPLE_SECONDS)

    def figures(self, settled: float, until: float) -> dict[str, float]:
        """Return megabytes at start, median and end, and what is gained a minute once settled."""
        times, megabytes = np.array([sample for sample in self.samples if sample[0] <= until]).T
        late = times >= settled
        slope = np.polyfit((times[late] - times[0]) / 60, megabytes[late], 1)[0]
        named = (("start", megabytes[0]), ("median", np.median(megabytes)), ("end", megabytes[-1]))
        return {name: round(float(value), 1) for name, value in (*named, ("slope_per_minute", slope))}


def packs_of(server: WatchedServer, since: float, until: float) -> list[PackTime]:
    """Return the forward passes that ended in between."""
    rows = [line.split() for line in (server.folder / "lags.packs").read_text(encoding="utf-8").splitlines()]
    packs = [PackTime(float(row[0]), float(row[1]), int(row[2])) for row in rows]
    return [pack for pack in packs if since <= pack.ended <= until]


def texts_of(number: int) -> dict[str, Any]:
    """Return an item, short or long by its number."""
    prompt = f"Question {number}: " + f"what is to be said of number {number}? " * (1 + number % 7)
    return {"prompt": prompt, "responses": [f"Of {number} " + f"{number} things are known. " * (1 + 3 * (number % 11))]}


def body_of(numbers: list[int], kind: str) -> bytes:
    return json.dumps({"items": [texts_of(number) for number in numbers], "priority": kind}).encode()


def tokens(content: bytes) -> int:
    return int(json.loads(content)["usage"]["computed_tokens"])


def latencies(answers: list[Answer], since: float, until: float) -> dict[str, float]:
    """Return the seconds that requests took which began in between: percentiles, and how many."""
    seconds = [answer.seconds for answer in answers if since <= answer.began < until]
    shown = {f"p{q}": round(float(np.percentile(seconds, q)), 3) for q in (50, 95, 99)} if seconds else {}
    return {"requests": len(seconds), **shown}


async def run(load: Load, memory: Memory, seconds: float) -> dict[str, Any]:
    """Let both phases pass; return the figures."""
    began = time.monotonic()
    flooded, ended = began + INTERACTIVE_SHARE * seconds, began + seconds
    watching = asyncio.create_task(memory.watch())

    async def flood(place: int) -> None:
        await asyncio.sleep(flooded - time.monotonic())
        await load.call("bulk", place, ended)

    interactive = [load.call("interactive", place, ended) for place in range(CALLERS)]
    await asyncio.gather(*interactive, *(flood(place) for place in range(CALLERS)))
    watching.cancel()
    finished = time.monotonic()
    packs = packs_of(load.server, flooded, finished)
    idle = latencies(load.answers["interactive"], began, flooded)
    beside = latencies(load.answers["interactive"], flooded, ended)
    longest = max((pack.seconds for pack in packs), default=0.0)
    return {
        "minutes": round(seconds / 60, 2),
        "interactive_seconds_alone": idle,
        "interactive_seconds_beside_bulk": beside,
        "longest_pack_seconds": round(longest, 3),
        "p99_within_idle_and_one_pack": beside.get("p99", math.inf) <= idle.get("p99", math.inf) + longest,
        "requests": {kind: dict(counts) for kind, counts in load.counts.items()},
        "faults": dict(load.faults),
        "bulk_tokens_per_second": round(sum(one.tokens for one in load.answers["bulk"]) / (finished - flooded)),
        "computed_tokens_per_second": round(sum(pack.tokens for pack in packs) / (finished - flooded)),
        "resident_megabytes": memory.figures((flooded + ended) / 2, ended),
        "loop_lag_ms": load.server.lags_ms(began, finished),
    }


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    settings = ["--weights", options.weights, "--dtype", options.dtype, "--drain-delay-seconds", "0", *options.settings]
    server = WatchedServer(folder, settings)
    await server.start()
    try:
        assert server.process is not None  # noqa: S101 - for the type: it has started
        load, memory = Load(server, TOLERANCES[options.dtype]), Memory(server.process.pid)
        await load.learn()
        figures = await run(load, memory, 60 * options.minutes)
    finally:
        await server.stop()
    if options.plot:
        points = {kind: [(one.began, one.seconds) for one in answers] for kind, answers in load.answers.items()}
        draw(options.plot, points, memory.samples)
    return {"weights": options.weights, "dtype": options.dtype, "settings": " ".join(options.settings), **figures}


def write(folder: Path, machine: dict[str, str], figures: dict[str, Any]) -> None:
    """Write mixed_load.json and mixed_load.md."""
    rows = [f"| {name.replace('_', ' ')} | {shown(value)} |" for name, value in figures.items()]
    table = "\n".join(["| | |", "| --- | --- |", *rows])
    title = "# Interactive callers beside a bulk flood, one caller in five breaking off"
    write_results(folder, "mixed_load", {"machine": machine, "measured": figures}, title, table, listed(machine))


def shown(value: Any) -> str:
    """Return a figure, or figures by name, in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {shown(one)}" for name, one in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def main() -> None:
    """Measure, print a JSON object and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--weights", default="weights/default")
    parser.add_argument("--dtype", choices=tuple(TOLERANCES), default="float32")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options, settings = parser.parse_known_args()
    options.settings = settings
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(options, Path(folder)))
    print(json.dumps(figures, indent=2))
    write(options.out, machine, figures)


if __name__ == "__main__":
    main()
