"""With `batch_invariant` a conversation's answer is the same to the last bit in any company; without it, it is not."""

from pathlib import Path

import numpy as np
import pytest

from app.domain import Readout, TokenizedConversation
from app.model.prefix_cache import PrefixCache
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from app.pack_builder import PackBuilder
from tests.checkpoints import write_armorm, write_moslim_heads

VOCABULARY = 300
PACK_TOKENS = 1024
Ids = tuple[int, ...]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    folder: Path = write_armorm(tmp_path_factory.mktemp("weights") / "armorm", "chatml")
    heads = write_moslim_heads(folder.parent / "moslim.safetensors")
    return load_reward_model(folder, device="cpu", dtype=request.param, moslim_weights=heads)


def conversations(seed: int, count: int) -> list[TokenizedConversation]:
    random = np.random.default_rng(seed)

    def ids(low: int, high: int) -> Ids:
        return tuple(random.integers(0, VOCABULARY, random.integers(low, high)).tolist())

    prompts = [(prompt, len(prompt) - 2) for prompt in (ids(5, 120) for _ in range(5))]
    chosen = [prompts[number % len(prompts)] for number in range(count)]
    return [TokenizedConversation(prompt, ids(1, 60), gating_index) for prompt, gating_index in chosen]


def begin_alike() -> list[TokenizedConversation]:
    """Prompts of which one is the beginning of another, or both have one, of hundreds of tokens."""
    random = np.random.default_rng(5)
    long = tuple(random.integers(0, VOCABULARY, 700).tolist())
    prompts = [long, (*long[:300], 1, 2, 3), long[:170], long[:300], long[:170] + (4,) * 90]
    return [TokenizedConversation(prompt, (7, 8, number), len(prompt) - 1) for number, prompt in enumerate(prompts)]


def bits(readout: Readout) -> bytes:
    arrays = (readout.rewards, readout.gating, readout.coefficients, *readout.intensities.values())
    return b"".join(np.ascontiguousarray(array).tobytes() for array in arrays) + np.float64(readout.score).tobytes()


def scored(model: RewardModel, given: list[TokenizedConversation], order: list[int], size: int) -> list[bytes]:
    """Score in packs of so many, in this order; return each conversation's bits in the order given."""
    found: dict[int, bytes] = {}
    for start in range(0, len(order), size):
        builder = PackBuilder(PACK_TOKENS, recall=None if model.prefix_cache is None else model.prefix_cache.find)
        part = order[start : start + size]
        assert all(builder.try_add(given[number]) for number in part)
        readouts = model.forward(builder.build()).readouts()
        found |= {number: bits(readout) for number, readout in zip(part, readouts, strict=True)}
    return [found[number] for number in range(len(given))]


def in_other_company(model: RewardModel, given: list[TokenizedConversation]) -> list[list[bytes]]:
    random = np.random.default_rng(7)
    return [scored(model, given, random.permutation(len(given)).tolist(), size) for size in (2, 5, 9)]


def test_company_does_not_change_a_bit(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given = conversations(seed=1, count=30)
    in_order = list(range(len(given)))
    fast = scored(model, given, in_order, 1)
    assert any(other != fast for other in in_other_company(model, given)), "else there is nothing to mend"
    monkeypatch.setattr(model, "invariant_pack_tokens", PACK_TOKENS)
    alone = scored(model, given, in_order, 1)
    assert len(set(alone)) == len(given)
    assert all(other == alone for other in in_other_company(model, given))
    monkeypatch.setattr(model, "prefix_cache", PrefixCache(2**30, whole_prompts_only=True))
    assert all(other == alone for other in in_other_company(model, given))
    assert model.prefix_cache.num_tokens > 0


def test_prompts_that_begin_alike_share_no_bits(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given = begin_alike()
    monkeypatch.setattr(model, "invariant_pack_tokens", PACK_TOKENS)
    order = list(range(len(given)))
    alone = scored(model, given, order, 1)
    monkeypatch.setattr(model, "prefix_cache", PrefixCache(2**30, whole_prompts_only=True))
    for _ in range(2):
        assert scored(model, given, order, 1) == alone


def test_more_responses_than_are_read_at_a_time(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    responses = [tuple(random.integers(0, VOCABULARY, 2).tolist()) for _ in range(130)]
    given = [TokenizedConversation((1, 2, 3), response, 2) for response in responses]
    given += [TokenizedConversation((4, 5), response, 0) for response in responses]
    order = random.permutation(len(given)).tolist()
    monkeypatch.setattr(model, "invariant_pack_tokens", PACK_TOKENS)
    alone = scored(model, given[:3] + given[-3:], list(range(6)), 1)
    together = scored(model, given, order, len(given))
    assert together[:3] + together[-3:] == alone
