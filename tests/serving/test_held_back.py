"""Prompts that begin with much that a pack computes wait for the next pack, where that beginning is remembered."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from app.domain import Prefix
from app.pack_builder import LEAST_AWAITED_TOKENS
from app.serving.jobs import Job, Priority
from app.serving.line import MOST_PASSED
from app.serving.metrics import Metrics
from app.serving.pack_plan import PackPlan
from app.serving.queue import BULK_LEADS_AFTER, JobQueue
from tests.serving.harness import INFO, Clock, conversation, run
from tests.serving.test_fairness import admit, callers_of

SYSTEM = "s" * (2 * LEAST_AWAITED_TOKENS)
AMPLE_TOKENS = 100_000


@dataclass(frozen=True)
class Recalled:
    num_tokens: int
    is_shareable: bool = True


@dataclass
class Memory:
    """What a prefix cache does with prompts, but for evicting them."""

    keeps: bool = True
    is_shareable: bool = True
    kept: list[tuple[int, ...]] = field(default_factory=list)
    asked: list[Prefix] = field(default_factory=list)

    def find(self, prefix: Prefix) -> Recalled:
        self.asked.append(prefix)
        num_tokens = max([num_alike(prefix.ids, other) for other in self.kept], default=0)
        return Recalled(min(num_tokens, prefix.gating_index), self.is_shareable)

    def computed(self, jobs: Sequence[Job]) -> None:
        self.kept += [job.prefix.ids for job in jobs] if self.keeps else []


def num_alike(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass
class Packing:
    """A queue whose packs are computed as soon as they are taken."""

    memory: Memory = field(default_factory=Memory)
    pack_tokens: int = AMPLE_TOKENS
    clock: Clock = field(default_factory=Clock)
    computed_tokens: int = 0

    def __post_init__(self) -> None:
        plan = PackPlan(self.pack_tokens, pack_seconds=math.inf, recall=self.memory.find)
        self.queue = JobQueue(
            Metrics(CollectorRegistry(), INFO), plan, max_queued_tokens=10**9, max_wait_seconds=1e9, clock=self.clock
        )

    def admit(self, *prompts: str, priority: Priority = "interactive", deadline: float | None = None) -> list[Job]:
        return self.queue.admit([conversation(prompt, "r") for prompt in prompts], priority, deadline)

    def take(self) -> list[Job]:
        builder = self.queue.new_pack()
        jobs = self.queue.take(builder)
        self.memory.computed(jobs)
        self.computed_tokens += builder.num_tokens
        return jobs


def behind(system: str, number: int = 16) -> list[str]:
    return [system + letter * 40 for letter in "abcdefghijklmnop"[:number]]


def test_a_long_beginning_is_computed_once_however_many_prompts_come_with_it() -> None:
    async def test() -> None:
        packing = Packing()
        jobs = packing.admit(*behind(SYSTEM))
        assert packing.take() == jobs[:1]
        assert packing.take() == jobs[1:]
        assert packing.computed_tokens == len(SYSTEM) + 16 * (40 + 1)

    run(test)


def test_what_follows_a_remembered_beginning_may_be_a_long_beginning_too() -> None:
    async def test() -> None:
        packing = Packing()
        packing.admit(SYSTEM + "x" * 40)
        packing.take()
        jobs = packing.admit(*behind(SYSTEM + "y" * 300, 2))
        assert (packing.take(), packing.take()) == (jobs[:1], jobs[1:])

    run(test)


def test_a_short_beginning_such_as_a_template_s_header_is_no_reason_to_wait() -> None:
    async def test() -> None:
        packing = Packing()
        jobs = packing.admit(*behind("h" * (LEAST_AWAITED_TOKENS - 1)))
        assert packing.take() == jobs

    run(test)


def test_what_is_remembered_already_is_no_reason_to_wait() -> None:
    async def test() -> None:
        packing = Packing()
        packing.admit(SYSTEM + "x" * 40)
        packing.take()
        jobs = packing.admit(*behind(SYSTEM))
        assert packing.take() == jobs

    run(test)


@pytest.mark.parametrize("is_shareable", [True, False])
def test_nobody_waits_twice_and_nobody_once_where_it_is_known_to_be_in_vain(is_shareable: bool) -> None:
    async def test() -> None:
        packing = Packing(Memory(keeps=False, is_shareable=is_shareable))
        jobs = packing.admit(*behind(SYSTEM))
        packs = [packing.take(), packing.take()]
        assert packs == ([jobs[:1], jobs[1:]] if is_shareable else [jobs, []])

    run(test)


def test_others_and_other_prompts_of_the_same_caller_go_on_and_the_order_stays() -> None:
    async def test() -> None:
        packing = Packing()
        first, second, third = behind(SYSTEM, 3)
        one = admit(packing.queue, "one", (first, "1"), (second, "2"), ("short", "3"), (third, "4"), (first, "5"))
        other = admit(packing.queue, "other", ("brief", "1"), (second, "2"))
        assert packing.take() == [one[0], one[4], other[0], one[2]]
        assert packing.take() == [other[1], one[1], one[3]]
        assert not any(packing.queue._lines.values())

    run(test)


def test_responses_to_a_prompt_that_the_pack_has_are_not_held_back() -> None:
    async def test() -> None:
        packing = Packing()
        first, _ = behind(SYSTEM, 2)
        bulk = packing.admit(first, priority="bulk")
        jobs = packing.admit(first, first)
        assert packing.take() == [*jobs, *bulk]

    run(test)


def test_waiting_for_a_beginning_lets_no_deadline_pass() -> None:
    async def test() -> None:
        packing = Packing()
        first, second, third = behind(SYSTEM, 3)
        now = packing.clock()
        packing.queue.measured(AMPLE_TOKENS, 10.0)
        (early,) = packing.admit(first)
        (soon,) = packing.admit(second, deadline=now + 9.0)
        (late,) = packing.admit(third, deadline=now + 11.0)
        assert packing.take() == [early, soon]
        assert packing.take() == [late]

    run(test)


def test_bulk_that_waits_may_have_to_wait_until_it_leads_and_lets_no_deadline_pass() -> None:
    async def test() -> None:
        packing = Packing(pack_tokens=2 * len(SYSTEM))
        first, second, third = behind(SYSTEM, 3)
        packing.queue.measured(2 * len(SYSTEM), 10.0)
        now = packing.clock()
        deadlines = (None, now + 10.0 * (BULK_LEADS_AFTER + 1), now + 10.0 * (BULK_LEADS_AFTER + 1) + 1.0)
        early, soon, late = (
            packing.admit(prompt, priority="bulk", deadline=deadline)[0]
            for prompt, deadline in zip((first[-400:], second[-400:], third[-400:]), deadlines, strict=True)
        )
        assert packing.take() == [early, soon]
        packs = []
        for number in range(BULK_LEADS_AFTER + 1):
            packing.clock.now += 10.0
            packing.admit(f"{number} short", deadline=packing.clock() + 1.0)
            packs.append(packing.take())
        assert [late in pack for pack in packs] == [False] * BULK_LEADS_AFTER + [True]

    run(test)


def test_no_deadline_is_waited_for_where_no_speed_is_known() -> None:
    async def test() -> None:
        packing = Packing()
        jobs = packing.admit(*behind(SYSTEM, 2), deadline=packing.clock() + 1000.0)
        assert packing.take() == jobs

    run(test)


def test_who_waits_for_a_beginning_may_leave() -> None:
    async def test() -> None:
        packing = Packing()
        (first,), (second,), (third,) = (packing.admit(prompt) for prompt in behind(SYSTEM, 3))
        assert packing.take() == [first]
        packing.queue.withdraw([second])
        assert packing.take() == [third]
        assert packing.queue._lines["interactive"].num_tokens == 0

    run(test)


def test_bulk_waits_for_what_interactive_computes_and_interactive_for_no_bulk() -> None:
    async def test() -> None:
        packing = Packing(pack_tokens=2 * len(SYSTEM))
        (bulk,) = packing.admit(SYSTEM + "b" * 40, priority="bulk")
        for number in range(BULK_LEADS_AFTER):
            (interactive,) = packing.admit(f"{number} short")
            assert packing.take() == [interactive]
        (interactive,) = packing.admit(SYSTEM[:300] + "i" * 40)
        assert packing.take() == [bulk, interactive]

    run(test)


prompts = st.builds(
    lambda depth, tail: "".join(letter * 300 for letter in depth) + tail * 20,
    st.sampled_from(["", "A", "AB", "ABC", "AC", "D"]),
    st.sampled_from("abcde"),
)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.tuples(prompts, st.sampled_from(["one", "two"])), max_size=8), min_size=1, max_size=6),
    st.booleans(),
    st.integers(1000, 3000),
)
def test_no_pack_is_empty_every_job_is_computed_once_and_the_oldest_goes_first(
    arrivals: list[list[tuple[str, str]]], keeps: bool, pack_tokens: int
) -> None:
    """Whoever keeps coming, and whether or not anything is remembered."""

    async def test() -> None:
        packing = Packing(Memory(keeps=keeps), pack_tokens)
        line = packing.queue._lines["interactive"]
        came: list[Job] = []
        taken: list[Job] = []
        coming = list(arrivals)
        while coming or line:
            for prompt, caller in coming.pop() if coming else []:
                came += admit(packing.queue, caller, (prompt, "r"))
            oldest = {name: next(iter(caller.jobs)) for name, caller in line._callers.items()}
            num_waiting, pack = len(line), packing.take()
            assert bool(pack) == bool(num_waiting)
            assert not pack or pack[0] is oldest[pack[0].caller]
            taken += pack
        assert len(taken) == len(came)
        assert set(taken) == set(came)
        assert sum(callers_of(taken).values()) == len(came)

    run(test)


def test_a_flood_that_waits_keeps_nobody_else_out_and_is_not_looked_through() -> None:
    async def test() -> None:
        packing = Packing()
        flood = [(SYSTEM + f"{number:05}" * 8, "r") for number in range(MOST_PASSED + 1)]
        first, *_ = admit(packing.queue, "flood", *flood)
        admit(packing.queue, "flood", ("not reached", "r"))
        (alone,) = admit(packing.queue, "one", ("alone", "r"))
        assert packing.take() == [first, alone]
        assert len(packing.memory.asked) == len(flood) + 1
        assert len(packing.take()) == MOST_PASSED + 1

    run(test)


def test_a_job_waits_once_even_if_another_pack_computes_its_beginning_again() -> None:
    async def test() -> None:
        packing = Packing(Memory(keeps=False), pack_tokens=2 * len(SYSTEM))
        jobs = packing.admit(*behind(SYSTEM, 3))
        assert packing.take() == jobs[:1]
        newcomers = packing.admit(SYSTEM + "z" * 40)
        assert packing.take() == jobs[1:2]
        assert packing.take() == jobs[2:]
        assert packing.take() == newcomers

    run(test)
