"""What callers get when the engine breaks: a right answer or a clear error, and never a wait without end.

Every fault is followed by a request that must be answered, or by a proof that liveness is lost.
"""

import asyncio
import dataclasses
import gc
import logging
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from app.errors import DeviceOutOfMemory, DevicePoisoned, InferenceFailed, NonFiniteReadout, NotReady
from app.packing import Pack, PackOutput
from app.serving.jobs import Job, JobResult
from tests.serving.harness import (
    Clock,
    Rig,
    compute,
    conversation,
    expected_rewards,
    expected_score,
    item,
    prompts_of,
    rewards_of,
    run,
    serving,
)

Outcome = JobResult | BaseException
Fault = Callable[[Pack], PackOutput | None]


async def outcomes_of(jobs: list[Job]) -> list[Outcome]:
    return await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)


def submit(rig: Rig, fault: Fault, *texts: tuple[str, str]) -> list[Job]:
    """Queue jobs that make one pack, and break the engine."""
    rig.engine.fault = fault
    return rig.queue.admit([conversation(*text) for text in texts], "interactive")


def where_prompt(prompt: str, fault: Fault) -> Fault:
    return lambda pack: fault(pack) if prompt in prompts_of(pack) else None


def raising(error: BaseException) -> Fault:
    def fault(_pack: Pack) -> PackOutput | None:
        raise error

    return fault


async def assert_answers(rig: Rig) -> None:
    """The service goes on."""
    scored = await rig.service.score([item("on", "it")])
    assert rewards_of(scored.results[0]) == [expected_rewards("on", "it")]
    assert rig.service.alive()


def test_a_failed_pack_fails_exactly_its_own_jobs(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=9) as rig:
            rig.engine.fault = where_prompt("bad", raising(RuntimeError("shapes do not match")))
            bad = rig.queue.admit([conversation("bad", "1"), conversation("bad", "2")], "interactive")
            good = rig.queue.admit([conversation("good", "3")], "interactive")
            failed = await outcomes_of(bad)
            assert [type(one) for one in failed] == [InferenceFailed, InferenceFailed]
            assert failed[0] is not failed[1]
            assert str(failed[0]) == "the forward pass failed (pack 1)"
            assert (await good[0].future).readout.score == expected_score("good", "3")
            assert rig.sample("armoserve_failures_total", kind="other") == 2
            await assert_answers(rig)

    with caplog.at_level(logging.ERROR):
        run(test)
    assert "pack 1" in caplog.text
    assert "shapes do not match" in caplog.text


@pytest.mark.parametrize(("limit", "num_fitting"), [(20, 4), (9, 4), (7, 3), (3, 0)])
def test_out_of_memory_halves_the_pack_down_to_single_responses(limit: int, num_fitting: int) -> None:
    async def test() -> None:
        async with serving() as rig:

            def small_device(pack: Pack) -> None:
                if pack.num_tokens > limit:
                    raise DeviceOutOfMemory("tried to allocate 2 GiB")

            texts = [("aaa", "1"), ("aaa", "2"), ("bbb", "3"), ("bbb", "44444")]
            jobs = submit(rig, small_device, *texts)
            outcomes = await outcomes_of(jobs)
            for text, outcome in zip(texts, outcomes, strict=True):
                if isinstance(outcome, JobResult):
                    assert outcome.readout.score == expected_score(*text)
                else:
                    assert type(outcome) is DeviceOutOfMemory
            assert sum(isinstance(one, JobResult) for one in outcomes) == num_fitting
            assert rig.sample("armoserve_failures_total", kind="oom") == 4 - num_fitting
            rig.engine.fault = lambda _pack: None
            await assert_answers(rig)

    run(test)


def test_a_retry_does_not_compute_for_callers_who_have_left() -> None:
    async def test() -> None:
        async with serving() as rig:
            loop = asyncio.get_running_loop()

            def all_leave_but_one(pack: Pack) -> None:
                if pack.num_responses == 4:
                    for job in jobs[:3]:
                        loop.call_soon_threadsafe(job.future.cancel)
                    raise DeviceOutOfMemory

            jobs = submit(rig, all_leave_but_one, ("aaa", "1"), ("bbb", "2"), ("ccc", "3"), ("ddd", "4"))
            assert (await jobs[3].future).readout.score == expected_score("ddd", "4")
            assert [prompts_of(pack) for pack in rig.engine.packs[1:]] == [["ddd"]]

    run(test)


def test_nothing_of_a_pass_that_ran_out_of_memory_is_alive_when_it_is_tried_again() -> None:
    class Activations:
        pass

    def allocate(activations: Activations) -> None:
        raise MemoryError(activations)

    left: list[weakref.ref[Activations]] = []
    alive_at_retry: list[bool] = []

    def small_device(pack: Pack) -> None:
        alive_at_retry.extend(reference() is not None for reference in left)
        activations = Activations()
        if pack.num_responses > 1:
            left.append(weakref.ref(activations))
            try:
                allocate(activations)
            except MemoryError as error:
                raise DeviceOutOfMemory("too big") from error

    async def test() -> None:
        async with serving() as rig:
            jobs = submit(rig, small_device, ("aaa", "1"), ("bbb", "2"))
            assert all(isinstance(one, JobResult) for one in await outcomes_of(jobs))

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()
    assert alive_at_retry == [False, False]


def spoil(**columns: Callable[[PackOutput], object]) -> Callable[[Pack], PackOutput]:
    def fault(pack: Pack) -> PackOutput:
        output = compute(pack)
        return dataclasses.replace(output, **{name: change(output) for name, change in columns.items()})

    return fault


def nan_in_row(values: np.ndarray, row: int) -> np.ndarray:
    spoilt = values.copy()
    spoilt[row] = np.nan
    return spoilt


@pytest.mark.parametrize("value", ["rewards_RK", "scores_R"])
def test_nan_fails_only_the_response_it_is_in(value: str) -> None:
    async def test() -> None:
        async with serving() as rig:
            fault = spoil(**{value: lambda output: nan_in_row(getattr(output, value), 1)})
            jobs = submit(rig, fault, ("aaa", "1"), ("aaa", "2"), ("bbb", "3"))
            outcomes = await outcomes_of(jobs)
            assert [type(one) for one in outcomes] == [JobResult, NonFiniteReadout, JobResult]
            assert rig.sample("armoserve_failures_total", kind="nan") == 1
            assert rig.sample("armoserve_score_count") == 2
            rig.engine.fault = lambda _pack: None
            await assert_answers(rig)

    run(test)


def test_nan_in_the_gating_of_a_prompt_fails_all_its_responses() -> None:
    async def test() -> None:
        async with serving() as rig:
            fault = spoil(gating_PK=lambda output: nan_in_row(output.gating_PK, 0))
            jobs = submit(rig, fault, ("aaa", "1"), ("aaa", "2"), ("bbb", "3"))
            outcomes = await outcomes_of(jobs)
            assert [type(one) for one in outcomes] == [NonFiniteReadout, NonFiniteReadout, JobResult]

    run(test)


@pytest.mark.parametrize(
    "fault",
    [
        spoil(rewards_RK=lambda output: output.rewards_RK[:-1]),
        spoil(rewards_RK=lambda output: np.concatenate([output.rewards_RK, output.rewards_RK])),
        spoil(scores_R=lambda output: output.scores_R[:-1]),
        spoil(scores_R=lambda output: np.append(output.scores_R, 1.0)),
        spoil(gating_PK=lambda output: np.concatenate([output.gating_PK, output.gating_PK])),
        spoil(prefix_of_response_R=lambda output: output.prefix_of_response_R[::-1]),
        spoil(intensities=lambda output: {"helpfulness": np.zeros((1, 5), dtype=np.float32)}),
        lambda _pack: "not an output",
    ],
    ids=["too-few", "too-many", "scores-short", "scores-long", "gating-long", "prompts-swapped", "heads", "nonsense"],
)
def test_an_answer_that_does_not_fit_the_pack_fails_it(fault: Callable[[Pack], PackOutput]) -> None:
    async def test() -> None:
        async with serving() as rig:
            jobs = submit(rig, fault, ("aaa", "1"), ("aaa", "2"), ("bbb", "3"))
            assert [type(one) for one in await outcomes_of(jobs)] == [InferenceFailed] * 3
            rig.engine.fault = lambda _pack: None
            await assert_answers(rig)

    run(test)


def test_a_poisoned_device_fails_the_pack_calls_for_the_end_and_hangs_nobody() -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=5) as rig:
            rig.engine.fault = raising(DevicePoisoned("device-side assert"))
            jobs = rig.queue.admit([conversation("aaaa", "1"), conversation("bbbb", "2")], "interactive")
            outcomes = await outcomes_of(jobs)
            assert [type(one) for one in outcomes] == [DevicePoisoned, NotReady]
            await asyncio.to_thread(rig.fatal.wait, 5)
            assert rig.fatal.is_set()
            assert rig.sample("armoserve_failures_total", kind="cuda") == 1
            assert not rig.service.alive()
            with pytest.raises(NotReady):
                await rig.service.score([item("p", "r")])
            assert len(rig.engine.packs) == 1

    run(test)


def test_a_device_that_is_poisoned_while_a_pack_is_halved_is_not_tried_again() -> None:
    async def test() -> None:
        async with serving() as rig:
            errors = iter([DeviceOutOfMemory(), DevicePoisoned()])

            def fault(_pack: Pack) -> None:
                raise next(errors)

            jobs = submit(rig, fault, ("aaa", "1"), ("bbb", "2"))
            assert [type(one) for one in await outcomes_of(jobs)] == [DevicePoisoned, NotReady]
            assert len(rig.engine.packs) == 2

    run(test)


def test_an_engine_thread_that_dies_fails_all_jobs_and_liveness(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=5) as rig:
            rig.engine.fault = raising(SystemExit("killed"))
            jobs = rig.queue.admit([conversation("aaaa", "1"), conversation("bbbb", "2")], "interactive")
            assert [type(one) for one in await outcomes_of(jobs)] == [InferenceFailed, NotReady]
            assert not rig.service.alive()
            assert not rig.fatal.is_set()
            with pytest.raises(NotReady):
                await rig.service.score([item("p", "r")])

    run(test)
    assert "SystemExit" in caplog.text


def test_an_engine_thread_that_died_while_idle_is_noticed() -> None:
    async def test() -> None:
        async with serving() as rig:
            rig.batcher._engine.stop()
            await asyncio.to_thread(rig.batcher._engine._thread.join, 5)
            assert not rig.service.alive()
            with pytest.raises(InferenceFailed):
                await rig.service.score([item("p", "r")])
            with pytest.raises(NotReady):
                await rig.service.score([item("p", "r")])

    run(test)


def test_a_batcher_that_dies_fails_all_jobs_and_liveness(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with serving() as rig:

            def broken(_builder: object) -> list[Job]:
                raise ZeroDivisionError

            monkeypatch.setattr(rig.queue, "take", broken)
            with pytest.raises(NotReady):
                await rig.service.score([item("p", "r")])
            assert not rig.service.alive()
            with pytest.raises(NotReady):
                await rig.service.score([item("p", "r")])

    run(test)


def test_a_metric_that_does_not_fit_fails_no_score() -> None:
    async def test() -> None:
        async with serving() as rig:
            rig.engine.fault = spoil(rewards_RK=lambda output: np.ones((len(output.rewards_RK), 7), dtype=np.float32))
            scored = await rig.service.score([item("p", "r")])
            assert rewards_of(scored.results[0]) == [[1.0] * 7]
            rig.engine.fault = lambda _pack: None
            await assert_answers(rig)

    run(test)


def test_a_forward_pass_that_hangs_loses_liveness_and_comes_back_with_it() -> None:
    async def test() -> None:
        clock = Clock()
        async with serving(clock=clock) as rig:
            rig.engine.hold()
            scoring = asyncio.create_task(rig.service.score([item("p", "r")]))
            await rig.engine.has_begun()
            clock.now += 5.0
            assert rig.service.alive()
            clock.now += 0.1
            assert not rig.service.alive()
            rig.engine.release()
            await scoring
            assert rig.service.alive()

    run(test)
