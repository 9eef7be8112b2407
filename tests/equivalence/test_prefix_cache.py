"""What is read off a pack with recalled prefixes equals what is read without the cache, whatever has been evicted."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from app.domain import Readout, TokenizedConversation
from app.model.prefix_cache import LEAST_SHARED_TOKENS, PrefixCache
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from app.pack_builder import PackBuilder, pack_of
from tests.checkpoints import FAMILIES, write_armorm, write_classifier

VOCABULARY = 300
TOLERANCE = 1e-5
AMPLE_BYTES = 2**30

Ids = tuple[int, ...]


@pytest.fixture(scope="module", params=[*FAMILIES, "armorm"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    folder: Path = tmp_path_factory.mktemp("weights")
    if request.param == "armorm":
        return load_reward_model(write_armorm(folder / "armorm", "chatml"), device="cpu", dtype="float32")
    return load_reward_model(write_classifier(folder / "one", request.param, num_labels=2), device="cpu")


@pytest.fixture
def with_cache(model: RewardModel) -> Callable[[int], RewardModel]:
    def give(budget_bytes: int) -> RewardModel:
        model.prefix_cache = PrefixCache(budget_bytes)
        return model

    yield give
    model.prefix_cache = None


def tree_of_prompts(seed: int) -> list[tuple[Ids, int]]:
    """Prompts as conversations are: some begin alike for long, some are others' beginnings; and their gating index."""
    random = np.random.default_rng(seed)
    prompts: list[Ids] = [tuple(random.integers(0, VOCABULARY, 20).tolist())]
    for _ in range(8):
        parent = prompts[random.integers(len(prompts))]
        shared = parent[: random.integers(1, len(parent) + 1)]
        prompts.append(shared + tuple(random.integers(0, VOCABULARY, random.integers(1, 40)).tolist()))
    return [(ids, int(random.integers(max(len(ids) - 6, 0), len(ids)))) for ids in prompts]


def score(model: RewardModel, conversations: Sequence[TokenizedConversation]) -> tuple[list[Readout], int]:
    """Score a pack as the batcher does; return the readouts and the number of computed tokens."""
    recall = None if model.prefix_cache is None else model.prefix_cache.find
    builder = PackBuilder(10**6, recall=recall)
    for conversation in conversations:
        assert builder.try_add(conversation)
    pack = builder.build()
    assert pack.num_tokens == builder.num_tokens
    return model.forward(pack).readouts(), pack.num_tokens


def assert_equal(found: Sequence[Readout], expected: Sequence[Readout]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.rewards, other.rewards, rtol=TOLERANCE, atol=TOLERANCE)
        if other.gating is not None:
            np.testing.assert_allclose(one.gating, other.gating, rtol=TOLERANCE, atol=TOLERANCE)
            assert one.score == pytest.approx(other.score, rel=TOLERANCE, abs=TOLERANCE)


def bytes_per_token(model: RewardModel) -> int:
    config = model.backbone.config
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4


@pytest.mark.parametrize("budget_tokens", [10**6, 150, 40, 0])
def test_packs_from_a_tree_of_prompts_read_as_without_the_cache(with_cache, model, budget_tokens: int) -> None:
    prompts = tree_of_prompts(seed=budget_tokens)
    random = np.random.default_rng(1)
    packs = []
    for _ in range(12):
        chosen = [prompts[index] for index in random.integers(0, len(prompts), 3)]
        responses = [tuple(random.integers(0, VOCABULARY, random.integers(1, 30)).tolist()) for _ in range(6)]
        packs.append(
            [TokenizedConversation(*chosen[n % 3][:1], ids, chosen[n % 3][1]) for n, ids in enumerate(responses)]
        )
    expected = [model.forward(pack_of(pack)).readouts() for pack in packs]
    spread = np.concatenate([[one.rewards for one in readouts] for readouts in expected]).std(axis=0)
    assert spread.min() > 100 * TOLERANCE, "a readout that never differs tests nothing"
    cached = with_cache(budget_tokens * bytes_per_token(model))
    found = [score(cached, pack) for pack in packs]
    for (readouts, _), wanted in zip(found, expected, strict=True):
        assert_equal(readouts, wanted)
    saved = sum(pack_of(pack).num_tokens for pack in packs) - sum(computed for _, computed in found)
    cache = cached.prefix_cache
    assert (saved > 0) == (budget_tokens > 0)
    assert (cache.num_evictions > 0) == (budget_tokens < 10**6)
    assert cache.num_bytes <= cache.budget_bytes


def test_a_prompt_seen_again_costs_its_responses_only(with_cache, model) -> None:
    cached = with_cache(AMPLE_BYTES)
    prompt, first, second = tuple(range(60)), (61, 62, 63), (70, 71)
    score(cached, [TokenizedConversation(prompt, first, 58)])
    readouts, computed = score(cached, [TokenizedConversation(prompt, second, 58)])
    assert computed == len(second)
    cached.prefix_cache = None
    assert_equal(readouts, score(cached, [TokenizedConversation(prompt, second, 58)])[0])


def test_a_long_beginning_is_shared_by_prompts_that_go_on_differently(with_cache, model) -> None:
    cached = with_cache(AMPLE_BYTES)
    system = tuple(range(50))
    score(cached, [TokenizedConversation((*system, 60, 61), (70,), 51)])
    other = TokenizedConversation((*system, 80, 81, 82), (90, 91), 52)
    readouts, computed = score(cached, [other])
    assert computed == 3 + 2
    cached.prefix_cache = None
    assert_equal(readouts, score(cached, [other])[0])


def test_a_gating_token_that_was_never_read_is_computed(with_cache, model) -> None:
    cached = with_cache(AMPLE_BYTES)
    prompt = tuple(range(60))
    score(cached, [TokenizedConversation(prompt, (61,), 59)])
    elsewhere = TokenizedConversation(prompt, (61, 62), 40)
    for computed in (60 - 40 + 2, 2):  # known from then on
        readouts, num_tokens = score(cached, [elsewhere])
        assert num_tokens == computed
    cached.prefix_cache = None
    assert_equal(readouts, score(cached, [elsewhere])[0])


def test_a_beginning_too_short_to_help_is_computed(with_cache, model) -> None:
    cached = with_cache(AMPLE_BYTES)
    header = tuple(range(LEAST_SHARED_TOKENS - 1))
    for tail in ((50, 51), (60, 61)):
        _, computed = score(cached, [TokenizedConversation((*header, *tail), (70,), len(header))])
        assert computed == len(header) + 3


def test_what_was_recalled_stays_right_when_it_is_dropped_meanwhile(with_cache, model) -> None:
    cached = with_cache(AMPLE_BYTES)
    prompt = tuple(range(60))
    score(cached, [TokenizedConversation(prompt, (61,), 59)])
    builder = PackBuilder(1000, recall=cached.prefix_cache.find)
    builder.try_add(TokenizedConversation(prompt, (62, 63), 59))
    builder.try_add(TokenizedConversation((*prompt, 100, 101), (62, 63), 61))
    pack = builder.build()
    cached.prefix_cache.clear()
    readouts = model.forward(pack).readouts()
    assert pack.num_tokens == 2 + 2 + 2
    assert cached.prefix_cache.num_tokens == 0, "the rest of a prompt without its beginning is of no use"
    cached.prefix_cache = None
    again = [TokenizedConversation(prompt, (62, 63), 59), TokenizedConversation((*prompt, 100, 101), (62, 63), 61)]
    assert_equal(readouts, model.forward(pack_of(again)).readouts())


def test_what_was_not_finite_is_not_remembered(with_cache, model, monkeypatch) -> None:
    cached = with_cache(AMPLE_BYTES)
    layer = cached.backbone.decoder.layers[0]
    sound = layer.forward
    system = tuple(range(40))

    def spoilt(*arguments: object, **options: object) -> torch.Tensor:
        output = sound(*arguments, **options)
        (output[0] if isinstance(output, tuple) else output)[..., 5, :] = torch.nan
        return output

    monkeypatch.setattr(layer, "forward", spoilt)
    readouts, _ = score(cached, [TokenizedConversation((*system, 50), (61,), 40)])
    assert np.isnan(readouts[0].rewards).any()
    monkeypatch.setattr(layer, "forward", sound)
    assert cached.prefix_cache.num_tokens == 0
    readouts, _ = score(cached, [TokenizedConversation((*system, 51), (61,), 40)])
    assert np.isfinite(readouts[0].rewards).all()
    assert cached.prefix_cache.num_tokens == 41


def test_no_memory_for_the_cache_costs_no_answer(with_cache, model, monkeypatch) -> None:
    cached = with_cache(AMPLE_BYTES)
    given = [TokenizedConversation(tuple(range(60)), (61,), 59)]
    score(cached, given)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(cached.prefix_cache, "_add", full)
    other = [TokenizedConversation((*range(30), 7, 8), (61,), 31)]
    found, _ = score(cached, other)
    assert (cached.prefix_cache.num_tokens, cached.prefix_cache.num_bytes) == (0, 0)
    cached.prefix_cache = None
    assert_equal(found, score(cached, other)[0])


def test_a_pack_that_is_done_keeps_nothing_that_was_dropped(with_cache, model) -> None:
    cached = with_cache(AMPLE_BYTES)
    given = TokenizedConversation(tuple(range(60)), (61,), 59)
    score(cached, [given])
    kept = [weakref.ref(keys) for node in cached.prefix_cache._by_use for keys, _ in node.states]
    builder = PackBuilder(1000, recall=cached.prefix_cache.find)
    builder.try_add(given)
    cached.forward(builder.build())
    cached.prefix_cache.clear()
    assert [one() for one in kept] == [None] * len(kept)
    assert builder.num_tokens == 1


def test_running_out_of_memory_empties_the_cache(with_cache, model, monkeypatch) -> None:
    cached = with_cache(AMPLE_BYTES)
    score(cached, [TokenizedConversation(tuple(range(60)), (61,), 59)])
    assert cached.prefix_cache.num_tokens == 60

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(cached.backbone, "forward", full)
    with pytest.raises(Exception, match="does not fit"):
        score(cached, [TokenizedConversation((1, 2), (3,), 0)])
    assert (cached.prefix_cache.num_tokens, cached.prefix_cache.num_bytes) == (0, 0)
