"""The serving core around plain functions: one token per character, and an engine that a test can hold and break.

What the fake model says of a response depends on every token of its prompt and of itself, so that a readout which
lands at the wrong job, or a response that is read beside the wrong prompt, is a wrong number.
"""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry

from app.domain import Item, Message, ModelInfo, Objective, TokenizedConversation, TokenizedItem, Truncation
from app.packing import Pack, PackOutput
from app.serving.batcher import Batcher
from app.serving.metrics import Metrics
from app.serving.pack_plan import PackPlan
from app.serving.queue import JobQueue
from app.serving.service import ItemReadouts, ScoringService

PATIENCE_SECONDS = 20.0
"""Longer than any test takes; only a hang meets it."""

INFO = ModelInfo(
    name="fake",
    revision="0123abcd",
    template="4567cdef",
    dtype="float32",
    device="cpu",
    objectives=(Objective("prompt-sum"), Objective("response-sum", quantiles=(0.0, 100.0, 200.0, 300.0))),
    has_gating=True,
    max_conversation_tokens=1000,
    score_quantiles=(0.0, 250.0, 500.0),
)


def conversation(prompt: str, response: str) -> TokenizedConversation:
    return TokenizedConversation(tuple(map(ord, prompt)), tuple(map(ord, response)), len(prompt) - 1)


def item(prompt: str, *responses: str) -> Item:
    return Item((Message("user", prompt),), responses)


def encode(one: Item, truncation: Truncation) -> TokenizedItem:
    prompt = one.prompt[-1].content
    return TokenizedItem(tuple(conversation(prompt, response) for response in one.responses))


def expected_rewards(prompt: str, response: str) -> list[float]:
    return [float(sum(map(ord, prompt))), float(sum(map(ord, response)))]


def expected_score(prompt: str, response: str) -> float:
    return sum(expected_rewards(prompt, response)) / 2


def rewards_of(result: object) -> list[list[float]]:
    assert isinstance(result, ItemReadouts), result
    return [readout.rewards.tolist() for readout in result.readouts]


def compute(pack: Pack) -> PackOutput:
    """Say the sum of its prompt's tokens and the sum of its own of every response, read through the segments."""
    by_last_token = {segment.stop - 1: segment for segment in pack.segments}
    rows = []
    for last in pack.reward_indices_R.tolist():
        segment = by_last_token[last]
        prefix = pack.token_ids_T[segment.prefix_start : segment.prefix_stop]
        rows.append([prefix.sum(), pack.token_ids_T[segment.start : segment.stop].sum()])
    rewards_RK = np.asarray(rows, dtype=np.float32)
    gating_PK = np.full((len(pack.gating_indices_P), 2), 0.5, dtype=np.float32)
    return PackOutput(rewards_RK, pack.prefix_of_response_R, gating_PK, gating_PK, rewards_RK.mean(axis=-1))


def prompts_of(pack: Pack) -> list[str]:
    """Read the prompts of a pack, in the order in which they are laid out."""
    prefixes = [segment for segment in pack.segments if segment.num_prefix_tokens == 0]
    return ["".join(map(chr, pack.token_ids_T[one.start : one.stop])) for one in prefixes]


class FakeEngine:
    """A forward pass that remembers its packs, waits while it is held, and breaks where a test says so."""

    def __init__(self) -> None:
        self.packs: list[Pack] = []
        self.fault: Callable[[Pack], PackOutput | None] = lambda _pack: None
        self._entered = threading.Semaphore(0)
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    def __call__(self, pack: Pack) -> PackOutput:
        self.packs.append(pack)
        self._entered.release()
        assert self._may_go_on.wait(PATIENCE_SECONDS)
        return self.fault(pack) or compute(pack)

    def hold(self) -> None:
        self._may_go_on.clear()

    def release(self) -> None:
        self._may_go_on.set()

    async def has_begun(self) -> None:
        """Return once one more forward pass has begun."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=PATIENCE_SECONDS)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Rig:
    """A serving core, running."""

    engine: FakeEngine
    registry: CollectorRegistry
    metrics: Metrics
    queue: JobQueue
    batcher: Batcher
    service: ScoringService
    fatal: threading.Event

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def queued_tokens(self) -> float:
        return sum(self.sample("armoserve_queued_tokens", priority=one) or 0.0 for one in ("interactive", "bulk"))


def make_queue(
    metrics: Metrics | None = None,
    *,
    max_pack_tokens: int = 100,
    max_queued_tokens: int = 10_000,
    max_wait_seconds: float = 90.0,
    clock: Clock | None = None,
    pack_seconds: float = math.inf,
) -> JobQueue:
    return JobQueue(
        metrics or Metrics(CollectorRegistry(), INFO),
        PackPlan(max_pack_tokens, pack_seconds=pack_seconds),
        max_queued_tokens=max_queued_tokens,
        max_wait_seconds=max_wait_seconds,
        clock=clock or Clock(),
    )


@asynccontextmanager
async def serving(
    *,
    max_pack_tokens: int = 100,
    max_queued_tokens: int = 10_000,
    max_wait_seconds: float = 90.0,
    clock: Clock | None = None,
    encoder: Callable[[Item, Truncation], TokenizedItem] = encode,
) -> AsyncIterator[Rig]:
    engine, registry, fatal = FakeEngine(), CollectorRegistry(), threading.Event()
    metrics = Metrics(registry, INFO)
    queue = make_queue(
        metrics,
        max_pack_tokens=max_pack_tokens,
        max_queued_tokens=max_queued_tokens,
        max_wait_seconds=max_wait_seconds,
        clock=clock,
    )
    batcher = Batcher(queue, engine, metrics, watchdog_seconds=5.0, on_fatal=fatal.set)
    service = ScoringService(encoder, queue, batcher, metrics)
    await service.start()
    try:
        yield Rig(engine, registry, metrics, queue, batcher, service, fatal)
    finally:
        engine.release()
        await service.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until `condition` holds."""
    while not condition():
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run an asynchronous test; one that hangs fails."""

    async def patiently() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await test()

    asyncio.run(patiently())
