"""The tree behind the prefix cache: what it gives is what it was given, it counts its bytes, and drops what is oldest.

States are made of the tokens themselves, so that a run in the wrong place shows.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import Prefix
from app.model.prefix_cache import LEAST_SHARED_TOKENS, PrefixCache, RecalledPrefix

Ids = tuple[int, ...]

LAYERS = 2
BYTES_PER_TOKEN = LAYERS * 2 * 4
HEADER = tuple(range(100, 100 + LEAST_SHARED_TOKENS))
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=12).map(lambda tail: (*HEADER, *tail))


def states_of(ids: Ids, start: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the states of a prompt's rest: token, place and layer are told by each number."""
    numbers = torch.tensor([token * 1000.0 + place for place, token in enumerate(ids)])[start:]
    return [((numbers + 0.25 * layer)[None, None, :, None], -numbers[None, None, :, None]) for layer in range(LAYERS)]


def reading(ids: Ids, gating_index: int) -> torch.Tensor:
    return torch.tensor([float(hash((ids[: gating_index + 1], gating_index)) % 1000)])


def compute(cache: PrefixCache, ids: Ids, gating_index: int) -> RecalledPrefix:
    """Do as the model does with a prompt; return what was recalled of it."""
    recalled = cache.find(Prefix(ids, gating_index))
    if recalled.num_tokens < len(ids):
        cache.store(recalled, states_of(ids, recalled.num_tokens), reading(ids, gating_index))
    return recalled


def check(recalled: RecalledPrefix) -> None:
    """See that a recalled beginning is the prompt's own."""
    known = recalled.num_tokens
    assert known <= len(recalled.prefix.ids)
    for layer, (keys, values) in enumerate(states_of(recalled.prefix.ids, 0)):
        if known:
            assert torch.equal(torch.cat(recalled.keys(layer), dim=2), keys[:, :, :known])
            assert torch.equal(torch.cat(recalled.values(layer), dim=2), values[:, :, :known])
    if known > recalled.prefix.gating_index:
        assert torch.equal(recalled.gating_hidden_D, reading(recalled.prefix.ids, recalled.prefix.gating_index))
    else:
        assert recalled.gating_hidden_D is None


def check_books(cache: PrefixCache) -> None:
    """See that the books are right: bytes, tokens, and a parent never older than its child."""
    nodes = list(cache._by_use)
    places = {node: place for place, node in enumerate(nodes)}
    reached = [cache._root]
    for node in reached:
        for first, child in node.children.items():
            assert (child.parent, child.token_ids[:1]) == (node, first)
            assert node is cache._root or places[node] > places[child]
            assert set(child.gating) <= set(range(len(child.token_ids)))
            reached.append(child)
    assert set(reached[1:]) == set(nodes)
    gating_bytes = sum(4 * len(node.gating) for node in nodes)
    assert cache.num_tokens == sum(len(node.token_ids) for node in nodes)
    assert cache.num_bytes == cache.num_tokens * BYTES_PER_TOKEN + gating_bytes <= cache.budget_bytes


@settings(deadline=None)
@given(st.lists(st.tuples(prompts, st.floats(0, 0.999)), max_size=25), st.sampled_from([0, 300, 600, 10**6]))
def test_what_it_gives_is_what_it_was_given(asked: list[tuple[Ids, float]], budget_bytes: int) -> None:
    cache = PrefixCache(budget_bytes)
    for ids, place in asked:
        gating_index = int(place * len(ids))
        check(compute(cache, ids, gating_index))
        check_books(cache)
        again = cache.find(Prefix(ids, gating_index))
        check(again)
        if budget_bytes == 10**6:
            assert again.num_tokens == len(ids)
    assert budget_bytes < 10**6 or cache.num_evictions == 0


def test_what_was_used_last_stays() -> None:
    one, other, third = ((*HEADER, first, *range(200, 220)) for first in (1, 2, 3))
    cache = PrefixCache(budget_bytes=(len(HEADER) + 2 * 21) * BYTES_PER_TOKEN + 8)
    for ids in (one, other, one, third):
        compute(cache, ids, len(ids) - 1)
    assert [cache.find(Prefix(ids, len(ids) - 1)).num_tokens for ids in (one, other, third)] == [37, 16, 37]
    assert cache.num_evictions == 1


def test_where_no_part_is_shared_prompts_that_begin_alike_are_kept_apart() -> None:
    cache = PrefixCache(10**6, whole_prompts_only=True)
    prompts = [(*HEADER, *range(200, 260), *tail) for tail in ((), (1, 2), (1, 3), (1, 2, 3))]
    for _ in range(2):
        recalled = [compute(cache, ids, len(ids) - 1) for ids in prompts]
    assert [one.num_tokens for one in recalled] == [len(ids) for ids in prompts]
    assert [len(one.runs) for one in recalled] == [1] * 4
    assert cache.num_tokens == sum(map(len, prompts))
    for one in recalled:
        check(one)


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    cache = PrefixCache(budget_bytes=10 * BYTES_PER_TOKEN)
    compute(cache, HEADER, 3)
    assert (cache.num_tokens, cache.num_bytes) == (0, 0)


class Meddling:
    """A lock after whose first release somebody else is quicker."""

    def __init__(self, meddle: Callable[[], object]) -> None:
        self.meddle: Callable[[], object] | None = meddle

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()


def test_what_is_found_is_right_though_it_is_cut_in_two_the_moment_after() -> None:
    cache = PrefixCache(budget_bytes=10**6)
    ids = (*HEADER, 1, 2, 3)
    compute(cache, ids, 17)
    cache._lock = Meddling(lambda: compute(cache, (*HEADER, 4, 5), 17))
    recalled = cache.find(Prefix(ids, 17))
    assert len(cache._by_use) == 3, "else nothing was cut"
    check(recalled)
    assert recalled.num_tokens == len(ids)


def test_threads_that_ask_while_another_stores_get_what_is_right() -> None:
    cache = PrefixCache(budget_bytes=120 * BYTES_PER_TOKEN)
    random = np.random.default_rng(0)
    asked = [(*HEADER, *random.integers(0, 2, 60).tolist()) for _ in range(64)]
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            for ids in asked:
                check(cache.find(Prefix(ids, len(ids) - 1)))

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        for _ in range(10):
            for ids in asked:
                compute(cache, ids, len(ids) - 1)
        ended.set()
        for one in asking:
            one.result()
    assert cache.num_evictions > 100
    check_books(cache)


def test_a_prompt_is_shareable_where_parts_are_shared_and_it_fits() -> None:
    def is_shareable(ids: Ids, num_budget_tokens: int, *, whole_prompts_only: bool = False) -> bool:
        cache = PrefixCache(num_budget_tokens * BYTES_PER_TOKEN, whole_prompts_only=whole_prompts_only)
        compute(cache, tuple(range(20)), 0)  # from then on it is known what a token takes
        return cache.find(Prefix(ids, 0)).is_shareable

    ids = tuple(range(50, 90))
    assert is_shareable(ids, 40)
    assert is_shareable((*range(20), *ids[:20]), 40), "also where its beginning is known"
    assert not is_shareable(ids, 39)
    assert not is_shareable(ids, 1000, whole_prompts_only=True)
    assert PrefixCache(1).find(Prefix(ids, 0)).is_shareable, "nothing is known yet"
