"""Admission: all or none, by size, by tokens, by estimated time; priorities; dropping."""

import asyncio
import gc

import pytest
from prometheus_client import CollectorRegistry

from app.errors import DeadlineExceeded, Draining, InferenceFailed, NotReady, Overloaded, TooManyTokens
from app.pack_builder import PackBuilder
from app.serving.metrics import Metrics
from app.serving.queue import Job, JobQueue
from tests.serving.harness import INFO, Clock, conversation, make_queue, run


def take(queue: JobQueue) -> list[Job]:
    return queue.take(PackBuilder(queue.max_pack_tokens))


def test_a_request_is_admitted_whole_or_not_at_all() -> None:
    async def test() -> None:
        queue = make_queue(max_queued_tokens=10)
        queue.admit([conversation("aaaa", "1")], "interactive")
        with pytest.raises(Overloaded):
            queue.admit([conversation("bb", "2"), conversation("cc", "3")], "interactive")
        admitted = queue.admit([conversation("ddd", "44")], "interactive")
        assert [job.conversation for job in take(queue)] == [
            conversation("aaaa", "1"),
            *(job.conversation for job in admitted),
        ]

    run(test)


def test_shared_prefixes_count_once_against_the_limit() -> None:
    async def test() -> None:
        queue = make_queue(max_queued_tokens=12)
        assert len(queue.admit([conversation("aaaaaaaa", str(n)) for n in range(4)], "interactive")) == 4

    run(test)


def test_what_could_never_fit_is_too_many_tokens_and_not_overload() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=10, max_queued_tokens=20)
        with pytest.raises(TooManyTokens, match="response 1 has 11 tokens; one pack takes at most 10"):
            queue.admit([conversation("aaaaa", "1"), conversation("aaaaa", "666666")], "interactive")
        with pytest.raises(TooManyTokens, match="24 tokens; the queue takes at most 20"):
            queue.admit([conversation(prompt * 7, "1") for prompt in "abc"], "interactive")
        assert take(queue) == []

    run(test)


def test_before_any_measurement_only_the_tokens_limit() -> None:
    async def test() -> None:
        queue = make_queue(max_queued_tokens=30, max_wait_seconds=0.001)
        queue.admit([conversation("a" * 19, "1")], "interactive")
        assert queue.estimated_wait_seconds("interactive") is None
        queue.admit([conversation("b" * 9, "2")], "interactive")
        with pytest.raises(Overloaded) as caught:
            queue.admit([conversation("c", "3")], "interactive")
        assert caught.value.retry_after_seconds == 1.0

    run(test)


def test_overload_is_judged_by_the_time_that_the_waiting_tokens_take() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=100, max_wait_seconds=15.0)
        queue.measured(tokens=100, seconds=10.0)
        queue.admit([conversation("a" * 49, "1")], "interactive")
        assert queue.estimated_wait_seconds("interactive") == pytest.approx(10.0)
        queue.admit([conversation("b" * 59, "2")], "interactive")  # 10 seconds are not over the limit
        with pytest.raises(Overloaded) as caught:
            queue.admit([conversation("c", "3")], "interactive")
        assert caught.value.retry_after_seconds == pytest.approx(5.0)  # two packs of 10 seconds, less the 15 allowed

    run(test)


def test_who_has_waited_already_is_let_in_only_while_the_rest_of_the_patience_is_enough() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=100, max_wait_seconds=15.0)
        queue.measured(tokens=100, seconds=10.0)
        late = [conversation("b" * 59, "2")]
        assert queue.has_room(late, "interactive", patience_seconds=-1.0)  # nothing waits: nor will it
        queue.admit([conversation("a" * 49, "1")], "interactive")
        assert queue.has_room(late, "interactive")
        assert queue.has_room(late, "interactive", patience_seconds=11.0)
        assert not queue.has_room(late, "interactive", patience_seconds=9.0)
        with pytest.raises(Overloaded) as caught:
            queue.admit(late, "interactive", patience_seconds=9.0)
        assert caught.value.retry_after_seconds == 1.0  # a new request would be let in now
        assert queue.admit(late, "interactive", patience_seconds=11.0)

    run(test)


def test_a_queue_is_full_by_tokens_or_by_time() -> None:
    async def test() -> None:
        queue = make_queue(max_queued_tokens=8, max_wait_seconds=10)
        queue.admit([conversation("bbbbbbb", "b")], "bulk")
        assert not queue.is_full()
        queue.admit([conversation("aaa", "1")], "interactive")
        assert not queue.is_full()
        queue.measured(tokens=100, seconds=20.0)
        assert queue.is_full()
        for _ in range(100):
            queue.measured(tokens=100, seconds=1.0)
        assert not queue.is_full()
        queue.admit([conversation("bbb", "1")], "interactive")
        assert queue.is_full()

    run(test)


def test_a_full_queue_says_when_there_will_be_room() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=100, max_queued_tokens=100)
        queue.measured(tokens=100, seconds=5.0)
        queue.admit([conversation("a" * 89, "1")], "interactive")
        with pytest.raises(Overloaded) as caught:
            queue.admit([conversation("b" * 59, "2")], "interactive")
        assert caught.value.retry_after_seconds == pytest.approx(5.0)

    run(test)


def test_the_running_pack_counts_until_the_engine_is_free() -> None:
    async def test() -> None:
        queue = make_queue()
        queue.measured(tokens=100, seconds=2.0)
        queue.admit([conversation("a" * 19, "1")], "interactive")
        take(queue)
        assert queue.estimated_wait_seconds("interactive") == pytest.approx(2.0)
        queue.released()
        assert queue.estimated_wait_seconds("interactive") == 0.0

    run(test)


def test_small_requests_never_make_an_ordinary_one_too_much() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=16_384, max_queued_tokens=2_000_000)
        for seconds in (0.5, 0.4, 0.6, 0.5):  # a busy machine: each tiny pack costs what any pack does
            queue.measured(tokens=14, seconds=seconds)
        queue.admit([conversation(letter * 16_000, "1") for letter in "abc"], "interactive")
        assert not queue.is_full()
        assert queue.admit([conversation("c", "3")], "interactive")

    run(test)


def test_a_bulk_flood_never_has_interactive_work_refused() -> None:
    async def test() -> None:
        queue = make_queue(max_queued_tokens=20, max_wait_seconds=1.0)
        queue.admit([conversation("a" * 19, "1")], "bulk")
        queue.measured(tokens=1, seconds=1.0)
        with pytest.raises(Overloaded):
            queue.admit([conversation("b", "2")], "bulk")
        assert queue.admit([conversation("c", "3")], "interactive")

    run(test)


def test_refused_responses_are_counted() -> None:
    async def test() -> None:
        registry = CollectorRegistry()
        queue = make_queue(Metrics(registry, INFO), max_queued_tokens=6)
        queue.admit([conversation("aaa", "1")], "interactive")
        with pytest.raises(Overloaded):
            queue.admit([conversation("bb", "2"), conversation("bb", "3")], "interactive")
        assert registry.get_sample_value("armoserve_dropped_total", {"reason": "overload"}) == 2
        assert registry.get_sample_value("armoserve_queued_tokens", {"priority": "interactive"}) == 4

    run(test)


def test_a_job_whose_caller_is_gone_is_dropped_at_once_and_counted() -> None:
    async def test() -> None:
        registry = CollectorRegistry()
        queue = make_queue(Metrics(registry, INFO))
        gone = queue.admit([conversation("aaa", "1")], "bulk")
        stays = queue.admit([conversation("bbb", "2")], "bulk")
        queue.withdraw(gone)
        assert gone[0].future.cancelled()
        assert registry.get_sample_value("armoserve_queued_tokens", {"priority": "bulk"}) == 4
        assert registry.get_sample_value("armoserve_dropped_total", {"reason": "cancelled"}) == 1
        assert take(queue) == stays

    run(test)


def test_a_caller_who_leaves_twice_is_neither_taken_nor_counted_twice() -> None:
    async def test() -> None:
        registry = CollectorRegistry()
        queue = make_queue(Metrics(registry, INFO))
        gone = queue.admit([conversation("aaa", "1")], "interactive")
        queue.withdraw(gone)
        queue.withdraw(gone)
        assert take(queue) == []
        assert registry.get_sample_value("armoserve_dropped_total", {"reason": "cancelled"}) == 1

    run(test)


def test_who_leaves_with_answers_drops_nothing_and_no_error_is_left_for_asyncio_to_report() -> None:
    async def test() -> None:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        registry = CollectorRegistry()
        queue = make_queue(Metrics(registry, INFO))
        jobs = queue.admit([conversation("aaa", "1"), conversation("bbb", "2")], "interactive")
        assert take(queue) == jobs
        for job in jobs:
            assert job.fail(InferenceFailed("broken"))
        queue.withdraw(jobs)
        jobs.clear()
        del job
        gc.collect()
        assert reported == []
        assert registry.get_sample_value("armoserve_dropped_total", {"reason": "cancelled"}) == 0

    run(test)


def test_a_deadline_that_was_left_behind_is_forgotten() -> None:
    async def test() -> None:
        clock, registry = Clock(), CollectorRegistry()
        queue = make_queue(Metrics(registry, INFO), clock=clock)
        queue.withdraw(queue.admit([conversation("aaa", "1")], "interactive", deadline=clock.now + 1))
        assert queue._due == {}
        clock.now += 1
        assert take(queue) == []
        assert registry.get_sample_value("armoserve_dropped_total", {"reason": "deadline"}) == 0

    run(test)


def test_a_deadline_that_passes_in_the_queue_drops_the_job() -> None:
    async def test() -> None:
        clock, registry = Clock(), CollectorRegistry()
        queue = make_queue(Metrics(registry, INFO), clock=clock)
        (late,) = queue.admit([conversation("aaa", "1")], "interactive", deadline=clock.now + 1)
        (patient,) = queue.admit([conversation("bbb", "2")], "interactive", deadline=clock.now + 9)
        clock.now += 1
        assert take(queue) == [patient]
        with pytest.raises(DeadlineExceeded):
            await late.future
        assert registry.get_sample_value("armoserve_dropped_total", {"reason": "deadline"}) == 1

    run(test)


def test_only_jobs_that_still_wait_expire() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=4)
        jobs = queue.admit([conversation("aaa", "1"), conversation("bbb", "2")], "interactive")
        (running,) = take(queue)
        queue.expire(jobs)
        assert not running.future.done()
        assert isinstance(jobs[1].future.exception(), DeadlineExceeded)
        assert take(queue) == []

    run(test)


def test_a_deadline_that_has_passed_already_is_refused() -> None:
    async def test() -> None:
        clock = Clock()
        queue = make_queue(clock=clock)
        with pytest.raises(DeadlineExceeded):
            queue.admit([conversation("aaa", "1")], "interactive", deadline=clock.now)
        assert take(queue) == []

    run(test)


def test_a_closed_door_lets_those_inside_go_on() -> None:
    async def test() -> None:
        queue = make_queue()
        with queue.door.entrance():
            queue.door.close(lambda: Draining("shutting down"))
            assert len(queue.admit([conversation("aaa", "1")], "interactive")) == 1
            with pytest.raises(Draining), queue.door.entrance():
                pass
            left = asyncio.ensure_future(queue.door.join())
            await asyncio.sleep(0)
            assert not left.done()
        await left

    run(test)


def test_an_abandoned_queue_fails_what_waits_and_what_comes_each_with_its_own_error() -> None:
    async def test() -> None:
        queue = make_queue()
        jobs = queue.admit([conversation("aaa", "1"), conversation("bbb", "2")], "bulk")
        queue.abandon(lambda: NotReady("stopped"))
        errors = [job.future.exception() for job in jobs]
        assert all(isinstance(error, NotReady) for error in errors)
        assert errors[0] is not errors[1]
        with pytest.raises(NotReady):
            queue.admit([conversation("ccc", "3")], "interactive")
        await queue.door.join()

    run(test)
