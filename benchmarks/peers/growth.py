"""How cost grows: with the number of responses, their length, the requests in flight, and the size of the model."""

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.domain import Item, Message
from app.text.tokenization import ConversationTokenizer
from benchmarks.peers.checkpoint import ClassifierSize, write_classifier
from benchmarks.peers.engines import Classifier, InProcess, PaddedBatches, Peer, Scored
from benchmarks.peers.rounds import timing
from benchmarks.peers.served import ArmoserveServed, OpenRlhfServed
from benchmarks.peers.texts import Prose
from benchmarks.peers.workloads import Request, Workload, best_of_n

RESPONSES: Final = (1, 4, 16, 32)
LENGTHS: Final = (64, 256, 1024)
IN_FLIGHT: Final = (1, 4, 16, 32)
SIZES: Final = (ClassifierSize(2, 128), ClassifierSize(2, 256), ClassifierSize(2, 512), ClassifierSize(4, 768))
ROUNDS: Final = 2


@dataclass(frozen=True, slots=True)
class Curve:
    """Median CPU seconds of a request, or of all that are in flight together, at each place of the axis."""

    axis: str
    engine: str
    places: list[str]
    seconds: list[float]


async def curves(
    prose: Prose,
    tokenizer: ConversationTokenizer,
    peers: Sequence[Peer],
    servers: Sequence[ArmoserveServed | OpenRlhfServed],
) -> list[Curve]:
    """Measure the first three; those of the model's size are `size_curves`."""
    by_count = [(str(n), best_of_n(prose, n)) for n in RESPONSES]
    by_length = [(str(length), best_of_n(prose, 8, length)) for length in LENGTHS]
    by_flight = [(str(n), same_shape(prose, n)) for n in IN_FLIGHT]
    return [
        *await _curves("responses to one prompt of 256 tokens", by_count, peers, tokenizer),
        *await _curves("tokens of a prompt with 8 responses", by_length, peers, tokenizer),
        *await _curves(
            "single requests in flight, a prompt each", by_flight, [Singly(one) for one in servers], tokenizer
        ),
    ]


async def size_curves(prose: Prose, tokenizer: ConversationTokenizer) -> list[Curve]:
    """Measure best-of-16 in this process, for models of several sizes."""
    workload = best_of_n(prose, 16)
    seconds: dict[str, list[float]] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = write_classifier(Path(name), size)
            peers: list[Peer] = [InProcess(folder, prefix_cache_bytes=0), PaddedBatches(Classifier(folder))]
            for engine, took in (await _medians(workload, peers, tokenizer)).items():
                seconds.setdefault(engine, []).append(took)
    places = [f"{size.layers}×{size.width}" for size in SIZES]
    return [Curve("layers × width, best-of-16", engine, places, took) for engine, took in seconds.items()]


@dataclass(frozen=True, slots=True)
class Singly:
    """A server that gets every conversation in a request of its own, all in flight together."""

    server: ArmoserveServed | OpenRlhfServed

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def process_id(self) -> int:
        return self.server.process_id

    async def score(self, request: Request) -> Scored:
        return await self.server.score_singly(request)


def same_shape(prose: Prose, count: int) -> Workload:
    """Return distinct conversations of 128 + 64 tokens."""

    def items() -> tuple[Item, ...]:
        texts = prose.texts([128, 64] * count)
        turns = zip(texts[::2], texts[1::2], strict=True)
        return tuple(Item((Message("user", prompt),), (reply,)) for prompt, reply in turns)

    return Workload(f"{count} alike", "distinct conversations of 128 + 64 tokens", items)


async def _curves(
    axis: str, workloads: Sequence[tuple[str, Workload]], peers: Sequence[Peer], tokenizer: ConversationTokenizer
) -> list[Curve]:
    medians = [await _medians(workload, peers, tokenizer) for _, workload in workloads]
    places = [place for place, _ in workloads]
    return [Curve(axis, peer.name, places, [one[peer.name] for one in medians]) for peer in peers]


async def _medians(workload: Workload, peers: Sequence[Peer], tokenizer: ConversationTokenizer) -> dict[str, float]:
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(1 + ROUNDS):
        request = workload.request(tokenizer)
        for peer in peers:
            took = (await timing(peer, peer.score(request))).seconds
            if number:
                seconds[peer.name].append(took)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
