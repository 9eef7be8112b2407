"""Packs form from what waits while the engine is busy; each job gets exactly its own readout."""

import asyncio
import random

import pytest

from app.errors import DeadlineExceeded, Draining
from tests.serving.harness import (
    Clock,
    conversation,
    expected_rewards,
    expected_score,
    item,
    prompts_of,
    rewards_of,
    run,
    serving,
    until,
)


def test_a_lone_request_does_not_wait_for_company() -> None:
    async def test() -> None:
        async with serving() as rig:
            (result,) = (await rig.service.score([item("p", "r")])).results
            assert rewards_of(result) == [expected_rewards("p", "r")]
            assert len(rig.engine.packs) == 1

    run(test)


def test_requests_on_one_prompt_that_wait_together_compute_it_once() -> None:
    async def test() -> None:
        async with serving() as rig:
            rig.engine.hold()
            first = asyncio.create_task(rig.service.score([item("busy", "x")]))
            await rig.engine.has_begun()
            group = [asyncio.create_task(rig.service.score([item("same prompt", r)])) for r in ("a", "bb", "ccc")]
            await until(lambda: rig.queued_tokens() == len("same prompt") + 6)
            rig.engine.release()
            scored = await asyncio.gather(*group)
            await first
            assert [prompts_of(pack) for pack in rig.engine.packs] == [["busy"], ["same prompt"]]
            assert rig.engine.packs[1].num_tokens == len("same prompt") + 6
            assert [one.usage.prompt_tokens for one in scored] == [11, 11, 11]
            assert sum(one.usage.computed_tokens for one in scored) == 17
            for one, response in zip(scored, ("a", "bb", "ccc"), strict=True):
                assert rewards_of(one.results[0]) == [expected_rewards("same prompt", response)]

    run(test)


def test_interactive_overtakes_bulk_that_waits() -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=8) as rig:
            rig.engine.hold()
            rig.queue.admit([conversation("busy", "x")], "interactive")
            await rig.engine.has_begun()
            bulk = rig.queue.admit([conversation("bulk", "x")], "bulk")
            interactive = rig.queue.admit([conversation("fast", "x")], "interactive")
            rig.engine.release()
            await asyncio.gather(*(job.future for job in bulk + interactive))
            assert [prompts_of(pack) for pack in rig.engine.packs] == [["busy"], ["fast"], ["bulk"]]

    run(test)


def test_no_pack_is_over_the_budget_and_every_job_gets_its_own_readout() -> None:
    async def test() -> None:
        chance = random.Random(7)
        async with serving(max_pack_tokens=40) as rig:
            prompts = ["".join(chance.choices("abcdef", k=chance.randint(1, 20))) for _ in range(12)]
            wanted = [
                (chance.choice(prompts), "xyz"[: chance.randint(1, 3)] * chance.randint(1, 6)) for _ in range(200)
            ]
            scored = await asyncio.gather(
                *(
                    rig.service.score([item(prompt, response)], priority=chance.choice(["interactive", "bulk"]))
                    for prompt, response in wanted
                )
            )
            for one, (prompt, response) in zip(scored, wanted, strict=True):
                assert rewards_of(one.results[0]) == [expected_rewards(prompt, response)]
                assert one.results[0].readouts[0].score == expected_score(prompt, response)
            assert max(pack.num_tokens for pack in rig.engine.packs) <= 40
            assert sum(pack.num_responses for pack in rig.engine.packs) == 200
            assert sum(one.usage.computed_tokens for one in scored) == sum(p.num_tokens for p in rig.engine.packs)

    run(test)


def test_a_caller_who_leaves_takes_its_waiting_jobs_along() -> None:
    async def test() -> None:
        async with serving() as rig:
            rig.engine.hold()
            first = asyncio.create_task(rig.service.score([item("busy", "x")]))
            await rig.engine.has_begun()
            leaving = asyncio.create_task(rig.service.score([item("gone", "a", "b")]))
            staying = asyncio.create_task(rig.service.score([item("here", "c")]))
            await until(lambda: rig.queued_tokens() == 11)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            rig.engine.release()
            await asyncio.gather(first, staying)
            assert [prompts_of(pack) for pack in rig.engine.packs] == [["busy"], ["here"]]
            assert rig.sample("armoserve_dropped_total", reason="cancelled") == 2

    run(test)


def test_a_caller_who_leaves_during_the_forward_pass_harms_nobody() -> None:
    async def test() -> None:
        async with serving() as rig:
            rig.engine.hold()
            leaving, staying = rig.queue.admit([conversation("p", "a"), conversation("p", "b")], "interactive")
            await rig.engine.has_begun()
            leaving.future.cancel()
            rig.engine.release()
            assert (await staying.future).readout.score == expected_score("p", "b")
            assert rig.sample("armoserve_dropped_total", reason="cancelled") == 0

    run(test)


def test_a_deadline_fails_the_caller_even_while_the_engine_is_busy() -> None:
    async def test() -> None:
        clock = Clock()
        async with serving(clock=clock) as rig:
            rig.engine.hold()
            first = asyncio.create_task(rig.service.score([item("busy", "x")]))
            await rig.engine.has_begun()
            with pytest.raises(DeadlineExceeded):
                await rig.service.score([item("late", "a")], deadline=clock.now + 0.001)
            assert rig.queued_tokens() == 0
            rig.engine.release()
            await first
            assert len(rig.engine.packs) == 1
            assert rig.sample("armoserve_dropped_total", reason="deadline") == 1

    run(test)


def test_a_deadline_that_passes_during_the_forward_pass_changes_nothing() -> None:
    async def test() -> None:
        clock = Clock()
        async with serving(clock=clock) as rig:
            rig.engine.hold()
            scoring = asyncio.create_task(rig.service.score([item("p", "r")], deadline=clock.now + 60))
            await rig.engine.has_begun()
            clock.now += 61
            rig.engine.release()
            assert rewards_of((await scoring).results[0]) == [expected_rewards("p", "r")]

    run(test)


def test_the_engines_speed_is_measured_and_what_runs_counts_as_waiting() -> None:
    async def test() -> None:
        clock = Clock()
        async with serving(clock=clock) as rig:

            def slowly(_pack: object) -> None:
                clock.now += 2.0

            rig.engine.fault = slowly
            await rig.service.score([item("prompt", "abcd")])
            assert rig.queue.estimated_wait_seconds("interactive") == 0
            rig.engine.hold()
            running = asyncio.create_task(rig.service.score([item("prompt", "abcdefghijklmn")]))
            await rig.engine.has_begun()
            await rig.engine.has_begun()
            assert rig.sample("armoserve_queue_wait_estimate_seconds") == pytest.approx(2.0)
            rig.engine.release()
            await running

    run(test)


def test_stopping_ends_the_engine_thread() -> None:
    async def test() -> None:
        async with serving() as rig:
            await rig.service.stop()
            await asyncio.to_thread(rig.batcher._engine._thread.join, 5)
            assert not rig.batcher._engine._thread.is_alive()

    run(test)


def test_draining_finishes_what_is_inside_and_refuses_what_comes() -> None:
    async def test() -> None:
        async with serving() as rig:
            rig.engine.hold()
            first = asyncio.create_task(rig.service.score([item("busy", "x")]))
            await rig.engine.has_begun()
            waiting = asyncio.create_task(rig.service.score([item("waits", "y")]))
            await until(lambda: rig.queued_tokens() > 0)
            draining = asyncio.create_task(rig.service.drain(timeout_seconds=10))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await rig.service.score([item("comes", "z")])
            assert not draining.done()
            rig.engine.release()
            assert await draining
            assert first.done()
            assert waiting.done()
            assert rewards_of(waiting.result().results[0]) == [expected_rewards("waits", "y")]

    run(test)


def test_what_is_left_when_the_drain_time_is_over_fails_with_draining() -> None:
    async def test() -> None:
        async with serving() as rig:
            rig.engine.hold()
            running = asyncio.create_task(rig.service.score([item("busy", "x")]))
            await rig.engine.has_begun()
            waiting = asyncio.create_task(rig.service.score([item("waits", "y")]))
            await until(lambda: rig.queued_tokens() > 0)
            assert not await rig.service.drain(timeout_seconds=0.001)
            await rig.service.stop()
            outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
            assert [type(one) for one in outcomes] == [Draining, Draining]
            assert not rig.service.alive()

    run(test)
