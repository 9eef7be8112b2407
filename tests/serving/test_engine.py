"""The engine thread's heartbeat: a busy one owes a pack, an idle one is pinged."""

import threading
from concurrent.futures import Future

import pytest

from app.pack_builder import pack_of
from app.packing import Pack
from app.serving.engine import EngineDied, EngineThread
from tests.serving.harness import PATIENCE_SECONDS, Clock, FakeEngine, compute, conversation


def one_pack() -> Pack:
    return pack_of([conversation("p", "r")])


def test_packs_are_computed_in_order_in_one_thread() -> None:
    threads = set()

    def forward(pack: Pack) -> object:
        threads.add(threading.current_thread().name)
        return compute(pack)

    engine = EngineThread(forward)
    engine.start()
    futures: list[Future[object]] = [engine.submit(pack_of([conversation("p", "r" * n)])) for n in (1, 2, 3)]
    rewards = [future.result(PATIENCE_SECONDS).output.rewards_RK[0, 1] for future in futures]
    engine.stop()
    assert rewards == [114 * n for n in (1, 2, 3)]
    assert threads == {"armoserve-engine"}


def test_the_time_of_a_pass_is_measured() -> None:
    clock = Clock()
    fake = FakeEngine()

    def slowly(_pack: Pack) -> None:
        clock.now += 3.0

    fake.fault = slowly
    engine = EngineThread(fake, clock=clock)
    engine.start()
    computed = engine.submit(one_pack()).result(PATIENCE_SECONDS)
    engine.stop()
    assert (computed.began_at, computed.seconds) == (1000.0, 3.0)


def test_an_idle_thread_that_does_not_answer_its_ping_is_noticed() -> None:
    clock = Clock()
    engine = EngineThread(FakeEngine(), clock=clock)  # never started: it answers nothing
    assert engine.has_answered_within(5.0)
    clock.now += 5.1
    assert not engine.has_answered_within(5.0)
    engine.start()
    engine.submit(one_pack()).result(PATIENCE_SECONDS)
    assert engine.has_answered_within(5.0)
    engine.stop()


def test_a_long_idle_time_is_not_held_against_the_thread() -> None:
    clock = Clock()
    engine = EngineThread(FakeEngine(), clock=clock)
    engine.start()
    engine.submit(one_pack()).result(PATIENCE_SECONDS)
    clock.now += 1e6
    assert engine.has_answered_within(5.0)
    engine.stop()


def test_a_thread_that_has_ended_takes_nothing() -> None:
    engine = EngineThread(FakeEngine())
    engine.start()
    engine.stop()
    engine._thread.join(PATIENCE_SECONDS)
    with pytest.raises(EngineDied):
        engine.submit(one_pack())
    assert not engine.has_answered_within(5.0)


def test_a_thread_that_dies_fails_what_it_was_given_before() -> None:
    fake = FakeEngine()
    fake.hold()

    def die(_pack: Pack) -> None:
        raise SystemExit

    fake.fault = die
    engine = EngineThread(fake)
    engine.start()
    futures = [engine.submit(one_pack()), engine.submit(one_pack())]
    fake.release()
    for future in futures:
        with pytest.raises(EngineDied):
            future.result(PATIENCE_SECONDS)
    assert len(fake.packs) == 1
