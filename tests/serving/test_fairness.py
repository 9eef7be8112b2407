"""Callers take turns within a priority, and interactive work waits for one pack behind bulk at most."""

import asyncio
from collections import Counter
from contextlib import AbstractContextManager

import pytest

from app.errors import Overloaded
from app.pack_builder import PackBuilder
from app.serving.jobs import Job, Priority
from app.serving.queue import BULK_LEADS_AFTER, JobQueue
from app.serving.record import RequestRecord, recording
from tests.serving.harness import conversation, expected_rewards, item, make_queue, prompts_of, rewards_of, run, serving

FLOOD = 10_000


def calling(caller: str) -> AbstractContextManager[None]:
    return recording(RequestRecord(caller=caller))


def admit(queue: JobQueue, caller: str, *texts: tuple[str, str], priority: Priority = "interactive") -> list[Job]:
    with calling(caller):
        return queue.admit([conversation(*text) for text in texts], priority)


def take(queue: JobQueue) -> list[Job]:
    return queue.take(PackBuilder(queue.max_pack_tokens))


def callers_of(jobs: list[Job]) -> Counter[str]:
    return Counter(job.caller for job in jobs)


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
def test_one_item_behind_ten_thousand_of_another_caller_is_in_the_next_pack(priority: Priority) -> None:
    async def test() -> None:
        async with serving(max_queued_tokens=1_000_000) as rig:
            rig.engine.hold()
            with calling("flood"):
                flood = [item(f"{number:05}", "12345") for number in range(FLOOD)]
                flooding = asyncio.create_task(rig.service.score(flood, priority=priority))
            await rig.engine.has_begun()
            with calling("one"):
                one = asyncio.create_task(rig.service.score([item("alone", "x")], priority=priority))
            while len(rig.queue._lines[priority]._callers) < 2:
                await asyncio.sleep(0.001)
            rig.engine.release()
            assert rewards_of((await one).results[0]) == [expected_rewards("alone", "x")]
            assert "alone" in prompts_of(rig.engine.packs[1])
            flooding.cancel()

    run(test)


def test_callers_get_equal_shares_of_tokens_whatever_they_queued_and_in_whatever_sizes() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=60)
        admit(queue, "many short", *((f"{number:03}", "1") for number in range(300)))
        admit(queue, "long", *((f"{number:013}", "1234567") for number in range(100)))
        tokens: Counter[str] = Counter()
        for _ in range(20):
            for job in take(queue):
                tokens[job.caller] += job.conversation.num_tokens
        assert abs(tokens["many short"] - tokens["long"]) <= 60
        assert sum(tokens.values()) > 19 * 60

    run(test)


def test_who_comes_new_has_no_credit_for_the_time_before() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=8)
        admit(queue, "old", *((f"{number:03}", "1") for number in range(100)))
        for _ in range(10):
            take(queue)
        admit(queue, "new", *((f"{number:03}", "1") for number in range(100, 200)))
        assert [callers_of(take(queue)) for _ in range(5)] == [{"old": 1, "new": 1}] * 5

    run(test)


def test_a_callers_own_jobs_lead_its_turn_on_a_prompt_that_others_flood() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=10)
        admit(queue, "flood", *(("same", f"{number:03}") for number in range(100)))
        take(queue)
        (own,) = admit(queue, "one", ("same", "xyz"))
        taken = take(queue)
        assert taken[0] is own
        assert callers_of(taken) == {"one": 1, "flood": 1}, "the prompt is shared between callers as ever"

    run(test)


def test_an_item_stays_whole_and_a_turn_shares_its_prompt() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=12)
        group = admit(queue, "a", *(("aaaa", letter) for letter in "1234"))
        admit(queue, "b", ("bbbb", "1"), ("cccc", "1"))
        assert take(queue) == group
        assert callers_of(take(queue)) == {"b": 2}

    run(test)


def test_a_full_share_of_one_caller_refuses_no_other() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=20, max_queued_tokens=100, max_wait_seconds=15.0)
        admit(queue, "flood", *((f"{number:03}", "1") for number in range(25)))
        with pytest.raises(Overloaded):
            admit(queue, "flood", ("more", "1"))
        assert queue.is_full()
        queue.measured(tokens=20, seconds=5.0)
        assert admit(queue, "one", ("one1", "1"))
        with pytest.raises(Overloaded):  # half of the limit is the most for two
            admit(queue, "one", *((f"{number:03}", "2") for number in range(12)))

    run(test)


def test_many_callers_together_hold_no_more_than_the_harmonic_sum() -> None:
    async def test() -> None:
        queue = make_queue(max_queued_tokens=120)
        for caller in "abcdef":
            for number in range(50):
                try:
                    admit(queue, caller, (f"{caller}{number:02}", "1"))
                except Overloaded:
                    break
        held = sum(job.conversation.num_tokens for job in queue._lines["interactive"])
        assert 120 < held <= 120 * sum(1 / n for n in range(1, 7))

    run(test)


def test_interactive_never_waits_for_more_than_one_pack_behind_bulk() -> None:
    """Both lines are never empty; every interactive job counts the packs before its own that held bulk."""

    async def test() -> None:
        async with serving(max_pack_tokens=8, max_queued_tokens=100_000) as rig:
            rig.engine.hold()
            bulk = admit(rig.queue, "bulk", *((f"b{number:05}", "12") for number in range(300)), priority="bulk")
            await rig.engine.has_begun()
            num_behind_bulk = []
            for number in range(5 * BULK_LEADS_AFTER):
                begun = len(rig.engine.packs)
                (job,) = admit(rig.queue, "person", (f"i{number:05}", "12"))
                rig.engine.release()
                await job.future
                rig.engine.hold()
                packs = [prompts_of(pack)[0] for pack in rig.engine.packs[begun:]]
                num_behind_bulk.append(sum(prompt.startswith("b") for prompt in packs[: packs.index(f"i{number:05}")]))
            assert max(num_behind_bulk) <= 1
            assert any(one.future.done() for one in bulk[1:]), "bulk went on meanwhile"
            rig.queue.withdraw(bulk)

    run(test)
