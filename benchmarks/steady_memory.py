"""Does the server's memory stay as it is over 100,000 requests, no two of them alike?

    python -m benchmarks.steady_memory [--requests 100000] [--connections 16] [--weights FOLDER] [--setting value]...

A server of its own is asked over connections that are kept: /score, /objectives, /get_reward, and what it must refuse.
Its resident set is sampled 200 times; the slope is that of a line through the samples of the second half: in the
first the caches fill (of tokenised prompts 64 MiB are kept, of some 45,000 such requests). Without `--weights` a tiny
model of random weights is served. Other settings go to the server as they are.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe
from benchmarks.peers.checkpoint import ClassifierSize, write_classifier
from benchmarks.peers.served import armoserve_command, running
from benchmarks.results_files import RESULTS, listed, write_results
from benchmarks.server_process import resident_megabytes

SAMPLES: Final = 200
SETTLING_SHARE: Final = 0.5
CACHE_FLAG, CACHE_BYTES = "--prefix-cache-bytes", str(32 * 2**20)
"""So little that the cache of prompts is full, and drops some, well within the first half."""
TINY: Final = ClassifierSize(layers=2, width=64)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and the status that is right for it."""

    path: str
    body: bytes
    status: int


@dataclass(frozen=True, slots=True)
class Growth:
    """Megabytes of the resident set."""

    before: float
    """When the server was ready, before any request."""
    settled: float
    """After the first half of the requests."""
    after: float
    largest: float
    slope_per_10_000: float
    """What 10,000 requests add, once settled."""


@dataclass(slots=True)
class Samples:
    """Resident megabytes by the number of requests that were answered."""

    requests: list[int] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    def growth(self) -> Growth:
        """Fit a line to what came after the first half.

        Raises:
            ValueError: there are fewer than two samples after it.
        """
        requests, megabytes = np.array(self.requests, dtype=np.float64), np.array(self.megabytes)
        late = requests >= SETTLING_SHARE * requests[-1]
        if late.sum() < 2:
            raise ValueError("no line goes through one sample: send more requests")
        slope = np.polyfit(requests[late] / 10_000, megabytes[late], 1)[0]
        named = (megabytes[0], megabytes[late][0], megabytes[-1], megabytes.max(), slope)
        return Growth(*(round(float(value), 2) for value in named))


def request(number: int) -> Asked:
    """Return the request of this number: five of eight score, one is a trainer's, two are refused in turn."""
    prompt = f"Question {number}: what is to be said of the number {number}, and of {number * number}?"
    response = f"Of {number} it is known that it is one more than {number - 1}."
    item = {"prompt": prompt, "responses": [response, f"Nothing, or {number % 7}."]}
    turn = number % 8
    if turn < 3:
        return _asked("/score", item, 200)
    if turn < 5:
        return _asked("/objectives", item, 200)
    if turn == 5:
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{response}<|im_end|>\n"
        return _asked("/get_reward", {"query": [text]}, 200)
    if turn == 6:
        return Asked("/score", f'{{"prompt": "{prompt}", '.encode(), 422)
    turns = [{"role": "assistant", "content": prompt}, {"role": "assistant", "content": response}]
    return _asked("/objectives", {**item, "prompt": turns}, 400)


def _asked(path: str, body: dict[str, Any], status: int) -> Asked:
    return Asked(path, json.dumps(body).encode(), status)


class Client:
    """A few kept connections, each with one request in flight."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.statuses: Counter[int] = Counter()
        self.unexpected: Counter[str] = Counter()

    async def send(self, numbers: Iterator[int], bar: "tqdm[Any]") -> None:
        """Send request after request over one connection, until the numbers are used up.

        Raises:
            OSError: the connection broke.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            for number in numbers:
                asked = request(number)
                status = await self._exchange(reader, writer, asked)
                self.statuses[status] += 1
                if status != asked.status:
                    self.unexpected[f"{asked.path}: {status} for {asked.status}"] += 1
                bar.update()
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Asked) -> int:
        head = f"POST {asked.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(asked.body)}\r\n\r\n"
        writer.write(head.encode() + asked.body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        return int(answer[9:12])


async def load(client: Client, process_id: int, num_requests: int, connections: int) -> tuple[Samples, float]:
    """Send all requests, sampling between them; return the samples and the seconds that it took."""
    samples = Samples([0], [resident_megabytes(process_id)])
    every = max(1, num_requests // SAMPLES)

    def numbers() -> Iterator[int]:
        for number in range(num_requests):
            if number and number % every == 0:
                samples.requests.append(number)
                samples.megabytes.append(resident_megabytes(process_id))
            yield number

    waiting, began = numbers(), time.monotonic()
    with tqdm(total=num_requests, unit="request", smoothing=0.05, disable=None) as bar:
        await asyncio.gather(*(client.send(waiting, bar) for _ in range(connections)))
    taken = time.monotonic() - began
    samples.requests.append(num_requests)
    samples.megabytes.append(resident_megabytes(process_id))
    return samples, taken


async def measure(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], Samples]:
    """Start the server, ask it, and stop it; return the figures."""
    weights = options.weights or write_classifier(folder / "weights", TINY)
    settings = options.settings if CACHE_FLAG in options.settings else [CACHE_FLAG, CACHE_BYTES, *options.settings]
    command = armoserve_command(weights, *settings)
    async with running(folder / "server", command) as server:
        client = Client(server.port)
        samples, seconds = await load(client, server.process_id, options.requests, options.connections)
    figures = {
        "requests": options.requests,
        "connections": options.connections,
        "seconds": round(seconds, 1),
        "requests_per_second": round(options.requests / seconds),
        "resident_megabytes": asdict(samples.growth()),
        "statuses": {str(status): count for status, count in sorted(client.statuses.items())},
        "unexpected": dict(client.unexpected),
        "weights": "a tiny random model" if options.weights is None else options.weights.name,
        "settings": " ".join(settings),
    }
    return figures, samples


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    flat = {name: value for name, value in figures.items() if not isinstance(value, dict)}
    flat |= {f"resident MB, {name}": value for name, value in figures["resident_megabytes"].items()}
    flat |= {f"answers of status {status}": count for status, count in figures["statuses"].items()}
    flat["answers of an unexpected status"] = sum(figures["unexpected"].values())
    rows = [
        f"| {name.replace('_', ' ')} | {f'{value:,}' if isinstance(value, int | float) else value or 'none'} |"
        for name, value in flat.items()
    ]
    return "\n".join(["| | |", "| --- | ---: |", *rows])


def draw(path: Path, samples: Samples, growth: Growth) -> None:
    """Draw the resident set over the requests, and where the slope is taken from."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, plot = plt.subplots(figsize=(8, 3.6), layout="constrained")
    plot.plot(samples.requests, samples.megabytes)
    plot.axvline(SETTLING_SHARE * samples.requests[-1], linestyle=":", color="gray")
    plot.set(xlabel="requests", ylabel="resident set, MB", ylim=(0, None))
    plot.set_title(f"{growth.slope_per_10_000:+.2f} MB per 10,000 requests right of the dotted line", fontsize=10)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--weights", type=Path, help="a weights folder; a tiny random model where there is none")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options, settings = parser.parse_known_args(arguments)
    options.settings = settings
    if options.requests < 20:
        parser.error(f"--requests: {options.requests}; allowed: from 20, or no line can be fitted")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table and write the results; return 1 where an answer had another status than is right."""
    options = parse_options(arguments)
    machine = describe()
    with tempfile.TemporaryDirectory() as folder:
        figures, samples = asyncio.run(measure(options, Path(folder)))
    print(table(figures))
    document = {"machine": machine, "measured": figures, "samples": asdict(samples)}
    title = f"# The resident set over {options.requests:,} requests"
    write_results(options.out, "steady_memory", document, title, table(figures), listed(machine))
    draw(options.out / "steady_memory.png", samples, samples.growth())
    if figures["unexpected"]:
        print(f"answers of an unexpected status: {figures['unexpected']}", file=sys.stderr)
    return 1 if figures["unexpected"] else 0


if __name__ == "__main__":
    sys.exit(main())
