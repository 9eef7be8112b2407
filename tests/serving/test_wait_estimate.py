"""The wait that is estimated is the wait that comes, where packs are far smaller than they may be."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from app.packing import Pack
from app.serving.metrics import Metrics
from app.serving.pack_plan import PackPlan
from app.serving.queue import JobQueue
from tests.serving.harness import INFO, Clock, conversation, run

PROMPTS, PROMPT_TOKENS, RESPONSE_TOKENS = 600, 100, 10


@dataclass(frozen=True)
class Recalled:
    num_tokens: int
    is_shareable: bool = False


def queue_of(cached_tokens: int, clock: Clock) -> JobQueue:
    plan = PackPlan(16_384, pack_seconds=0.5, recall=lambda prefix: Recalled(cached_tokens))
    metrics = Metrics(CollectorRegistry(), INFO)
    return JobQueue(metrics, plan, max_queued_tokens=10**6, max_wait_seconds=900.0, clock=clock)


def admit(queue: JobQueue, number: int) -> None:
    prompts = (f"{number}-{index}".ljust(PROMPT_TOKENS) for index in range(PROMPTS))
    queue.admit([conversation(prompt, "r" * RESPONSE_TOKENS) for prompt in prompts], "interactive")


def drained(queue: JobQueue, clock: Clock, seconds_for: Callable[[Pack], float]) -> float:
    """Compute all that waits; return how long it took."""
    began = clock()
    while queue.take(builder := queue.new_pack()):
        pack = builder.build()
        seconds = seconds_for(pack)
        clock.now += seconds
        queue.measured(pack.num_tokens, seconds, pack.num_cached_tokens)
        queue.released()
    return clock() - began


@pytest.mark.parametrize("cached_tokens", [0, 80])
@pytest.mark.parametrize(
    "seconds_for",
    [
        pytest.param(lambda pack: 0.004 + pack.num_tokens / 2500, id="by the token"),
        pytest.param(lambda pack: 0.2 + pack.num_tokens / 20_000, id="by both"),
        pytest.param(lambda pack: 0.5, id="by the pack"),
    ],
)
def test_the_wait_that_is_estimated_is_the_wait_that_comes(
    seconds_for: Callable[[Pack], float], cached_tokens: int
) -> None:
    async def test() -> None:
        clock = Clock()
        queue = queue_of(cached_tokens, clock)
        admit(queue, 0)
        drained(queue, clock, seconds_for)
        admit(queue, 1)
        estimated = queue.estimated_wait_seconds("interactive")
        assert estimated == pytest.approx(drained(queue, clock, seconds_for), rel=0.25)

    run(test)
