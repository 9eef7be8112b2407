"""Out of memory with recalled prefixes: what is tried again is smaller, though nothing is recalled any more."""

import asyncio
import math
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from app.domain import Prefix
from app.errors import DeviceOutOfMemory
from app.packing import Pack, PackOutput
from app.serving.batcher import Batcher
from app.serving.metrics import Metrics
from app.serving.pack_plan import PackPlan
from app.serving.queue import JobQueue
from tests.serving.harness import INFO, compute, conversation, run

MAX_PACK_TOKENS = 64


@dataclass(frozen=True)
class Recalled:
    num_tokens: int
    is_shareable: bool = False


def recall(prefix: Prefix) -> Recalled:
    return Recalled(len(prefix))


def test_no_pack_that_is_tried_again_is_larger_than_packs_may_be() -> None:
    async def test() -> None:
        packs: list[Pack] = []

        def forward(pack: Pack) -> PackOutput:
            packs.append(pack)
            if len(packs) == 1:
                raise DeviceOutOfMemory("full")
            return compute(pack)

        metrics = Metrics(CollectorRegistry(), INFO)
        plan = PackPlan(MAX_PACK_TOKENS, pack_seconds=math.inf, recall=recall)
        queue = JobQueue(metrics, plan, max_queued_tokens=10_000, max_wait_seconds=90.0)
        batcher = Batcher(queue, forward, metrics, watchdog_seconds=60, on_fatal=lambda: None)
        await batcher.start()
        jobs = queue.admit([conversation(letter * 40, "12") for letter in "abcdefgh"], "interactive")
        results = await asyncio.gather(*(job.future for job in jobs))
        await batcher.stop()
        assert packs[0].num_tokens == 16
        assert [pack.num_tokens for pack in packs[1:]] == [42] * 8
        assert all(pack.num_cached_tokens == 0 for pack in packs[1:])
        assert [one.readout.rewards[0] for one in results] == [40 * ord(letter) for letter in "abcdefgh"]

    run(test)
