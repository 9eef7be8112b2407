"""Prompts with one long beginning, new and sent together: what is computed of them, and that it reads as if alone."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from app.domain import Readout, TokenizedConversation
from app.model.prefix_cache import PrefixCache
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from app.pack_builder import pack_of
from app.packing import Pack, PackOutput
from app.serving.batcher import Batcher
from app.serving.metrics import Metrics
from app.serving.pack_plan import PackPlan
from app.serving.queue import JobQueue
from tests.checkpoints import write_armorm
from tests.equivalence.test_prefix_cache import AMPLE_BYTES, assert_equal, bytes_per_token

VOCABULARY = 300
SYSTEM_TOKENS, OWN_TOKENS, RESPONSE_TOKENS = 1000, 40, 20
PROMPTS = 16
ALONE_TOKENS = OWN_TOKENS + RESPONSE_TOKENS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    folder: Path = tmp_path_factory.mktemp("weights")
    return load_reward_model(write_armorm(folder / "armorm", "chatml"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def conversations() -> list[TokenizedConversation]:
    random = np.random.default_rng(0)
    system, *rest = (tuple(random.integers(0, VOCABULARY, size).tolist()) for size in [SYSTEM_TOKENS] + [60] * PROMPTS)
    gating_index = SYSTEM_TOKENS + OWN_TOKENS - 2
    return [TokenizedConversation(system + ids[:OWN_TOKENS], ids[OWN_TOKENS:], gating_index) for ids in rest]


@pytest.fixture(scope="module")
def alone(model: RewardModel, conversations: list[TokenizedConversation]) -> list[Readout]:
    readouts = [model.forward(pack_of([one])).readouts()[0] for one in conversations]
    assert np.std([one.score for one in readouts]) > 1e-3, "a score that never differs tests nothing"
    return readouts


def serve(
    model: RewardModel, cache: PrefixCache, conversations: Sequence[TokenizedConversation], max_pack_tokens: int
) -> tuple[list[Readout], list[int]]:
    """Score one request through queue and batcher; return the readouts, and how many tokens each pack computed."""
    packs: list[int] = []

    def forward(pack: Pack) -> PackOutput:
        packs.append(pack.num_tokens)
        return model.forward(pack)

    async def score() -> list[Readout]:
        metrics = Metrics(CollectorRegistry(), model.info)
        plan = PackPlan(max_pack_tokens, pack_seconds=math.inf, recall=cache.find)
        queue = JobQueue(metrics, plan, max_queued_tokens=10**6, max_wait_seconds=90.0)
        batcher = Batcher(queue, forward, metrics, watchdog_seconds=60.0, on_fatal=lambda: None)
        await batcher.start()
        jobs = queue.admit(conversations, "interactive")
        results = await asyncio.gather(*(job.future for job in jobs))
        await batcher.stop()
        return [one.readout for one in results]

    model.prefix_cache = cache
    try:
        return asyncio.run(score()), packs
    finally:
        model.prefix_cache = None


def test_a_system_prompt_that_is_new_is_computed_once(model, conversations, alone) -> None:
    readouts, packs = serve(model, PrefixCache(AMPLE_BYTES), conversations, 20_000)
    assert packs == [SYSTEM_TOKENS + ALONE_TOKENS, (PROMPTS - 1) * ALONE_TOKENS]
    assert_equal(readouts, alone)


def test_a_cache_that_evicts_makes_it_no_less_and_no_score_other(model, conversations, alone) -> None:
    cache = PrefixCache((SYSTEM_TOKENS + 2 * OWN_TOKENS) * bytes_per_token(model))
    readouts, packs = serve(model, cache, conversations, 20_000)
    assert packs == [SYSTEM_TOKENS + ALONE_TOKENS, (PROMPTS - 1) * ALONE_TOKENS]
    assert cache.num_evictions > 0
    assert_equal(readouts, alone)


def test_a_cache_that_is_too_small_has_nobody_wait_once_that_is_known(model, conversations, alone) -> None:
    cache = PrefixCache(SYSTEM_TOKENS // 2 * bytes_per_token(model))
    all_tokens = PROMPTS * (SYSTEM_TOKENS + ALONE_TOKENS)
    for packs_expected in ([SYSTEM_TOKENS + ALONE_TOKENS, all_tokens - SYSTEM_TOKENS - ALONE_TOKENS], [all_tokens]):
        readouts, packs = serve(model, cache, conversations, 20_000)
        assert packs == packs_expected
        assert_equal(readouts, alone)


def test_where_whole_prompts_only_are_shared_nobody_waits(model, conversations, alone) -> None:
    readouts, packs = serve(model, PrefixCache(AMPLE_BYTES, whole_prompts_only=True), conversations, 20_000)
    assert packs == [PROMPTS * (SYSTEM_TOKENS + ALONE_TOKENS)]
    assert_equal(readouts, alone)


def test_a_group_of_responses_that_fills_several_packs_has_its_prompt_computed_once(model, conversations) -> None:
    prompt = conversations[0]
    group = [replace(prompt, response_ids=one.response_ids * 10) for one in conversations]
    readouts, packs = serve(model, PrefixCache(AMPLE_BYTES), group, 1500)
    assert len(packs) > 2
    assert sum(packs) == SYSTEM_TOKENS + OWN_TOKENS + PROMPTS * 10 * RESPONSE_TOKENS
    assert_equal(readouts, [model.forward(pack_of([one])).readouts()[0] for one in group])
