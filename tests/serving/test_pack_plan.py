"""How large the next pack may be."""

import math

import pytest

from app.domain import Prefix
from app.serving.pack_plan import LEAST_TOKENS, PackPlan
from tests.serving.harness import conversation, make_queue, run

MAX_TOKENS = 16_384


@pytest.fixture
def plan() -> PackPlan:
    return PackPlan(MAX_TOKENS, pack_seconds=1.0)


def test_the_first_pack_is_small(plan: PackPlan) -> None:
    assert plan.budget_tokens == LEAST_TOKENS
    assert PackPlan(100).budget_tokens == 100


def test_packs_grow_to_what_is_computed_in_their_time(plan: PackPlan) -> None:
    budgets = []
    for _ in range(60):  # 20 ms a pack and 0.2 ms a token
        tokens = plan.budget_tokens
        plan.record(tokens, 0.02 + 0.0002 * tokens)
        budgets.append(tokens)
    assert budgets == sorted(budgets)
    assert budgets[-1] == pytest.approx(4900, rel=0.01)


def test_a_fast_device_fills_its_packs(plan: PackPlan) -> None:
    for _ in range(30):
        plan.record(plan.budget_tokens, 0.005 + plan.budget_tokens / 50_000)
    assert plan.budget_tokens == MAX_TOKENS


def test_a_device_that_slows_down_gets_smaller_packs_soon(plan: PackPlan) -> None:
    for _ in range(30):
        plan.record(8000, 1.0)
    plan.record(8000, 8.0)
    plan.record(8000, 8.0)
    assert plan.budget_tokens < 5000
    for _ in range(100):
        plan.record(plan.budget_tokens, plan.budget_tokens / (LEAST_TOKENS - 12))
    assert plan.budget_tokens == LEAST_TOKENS


def test_packs_take_half_a_second_unless_another_time_is_asked_for() -> None:
    plan = PackPlan(MAX_TOKENS)
    assert plan.budget_tokens == 512
    for _ in range(30):
        plan.record(plan.budget_tokens, plan.budget_tokens / 10_000)
    assert plan.budget_tokens == pytest.approx(5000, abs=1)


def test_small_packs_do_not_make_packs_small(plan: PackPlan) -> None:
    for _ in range(30):
        plan.record(10, 2.0)
    assert plan.budget_tokens == LEAST_TOKENS


def test_no_time_limit_is_no_budget() -> None:
    plan = PackPlan(MAX_TOKENS, pack_seconds=math.inf)
    assert plan.budget_tokens == MAX_TOKENS
    plan.record(10, 100.0)
    assert plan.budget_tokens == MAX_TOKENS


def test_a_response_longer_than_the_budget_has_a_pack_of_its_own() -> None:
    plan = PackPlan(5000)
    builder = plan.new_pack()
    long, short = tuple(range(1, 2000)), (1,)
    assert builder.fill(Prefix(long, 0), [long, short]) == [0]
    assert builder.fill(Prefix(short, 0), [short]) == []
    assert plan.new_pack().fill(Prefix(long, 0), [long + long]) == []


def test_what_is_longer_than_the_budget_does_not_wait_for_ever() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=4000, pack_seconds=1.0)
        short, long, other = queue.admit(
            [conversation("aaa", "1"), conversation("b" * 2000, "2"), conversation("ccc", "3")], "interactive"
        )
        taken = [queue.take(queue.new_pack()) for _ in range(3)]
        assert taken == [[short], [long], [other]]

    run(test)
