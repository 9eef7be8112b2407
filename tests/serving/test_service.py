"""Items in, readouts out: per-item errors, order, usage, timings, truncation, shutting down while tokenising."""

import asyncio
import logging
import threading
from unittest.mock import Mock, patch

import pytest

from app.domain import Item, TokenizedItem, Truncation
from app.errors import Draining, InferenceFailed, Overloaded, TooManyTokens
from app.serving import service
from app.serving.record import Usage
from app.serving.service import GATHERED_AT_ONCE, ITEMS_PER_CALL, ItemReadouts
from tests.serving.harness import (
    PATIENCE_SECONDS,
    Clock,
    encode,
    expected_rewards,
    item,
    rewards_of,
    run,
    serving,
    until,
)


def test_no_items_give_no_results() -> None:
    async def test() -> None:
        async with serving() as rig:
            scored = await rig.service.score([])
            assert scored.results == ()
            assert scored.usage == Usage(0, 0, 0)
            assert rig.engine.packs == []

    run(test)


def test_results_keep_the_order_of_items_and_responses() -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=30) as rig:
            items = [
                item("p" * (1 + n % 7), *("r" * (1 + k) for k in range(n % 3 + 1))) for n in range(5 * ITEMS_PER_CALL)
            ]
            scored = await rig.service.score(items)
            for one, result in zip(items, scored.results, strict=True):
                prompt = one.prompt[-1].content
                assert rewards_of(result) == [expected_rewards(prompt, response) for response in one.responses]

    run(test)


def test_a_slow_item_does_not_change_the_order() -> None:
    overtaken = threading.Event()

    def first_is_slow(one: Item, truncation: Truncation) -> TokenizedItem:
        if one.responses == ("last",):
            overtaken.set()
        elif one.responses == ("first",):
            assert overtaken.wait(PATIENCE_SECONDS)
        return encode(one, truncation)

    async def test() -> None:
        async with serving(encoder=first_is_slow) as rig:
            texts = ["first", *("other" for _ in range(2 * ITEMS_PER_CALL)), "last"]
            scored = await rig.service.score([item("p", text) for text in texts])
            assert [rewards_of(one)[0] for one in scored.results] == [expected_rewards("p", text) for text in texts]

    run(test)


def test_an_item_at_fault_is_its_own_error_and_the_others_are_scored() -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=20) as rig:
            scored = await rig.service.score([item("p", "a"), item("p", "b", "c" * 20), item("p", "d")])
            good, bad, also_good = scored.results
            assert isinstance(bad, TooManyTokens)
            assert str(bad) == "the conversation with response 1 has 21 tokens; one pack takes at most 20"
            assert rewards_of(good) == [expected_rewards("p", "a")]
            assert rewards_of(also_good) == [expected_rewards("p", "d")]
            assert rig.engine.packs[0].num_responses == 2

    run(test)


def test_only_items_at_fault_need_no_engine() -> None:
    async def test() -> None:
        async with serving(max_pack_tokens=5) as rig:
            scored = await rig.service.score([item("too long", "a")])
            assert isinstance(scored.results[0], TooManyTokens)
            assert rig.engine.packs == []

    run(test)


def test_usage_and_result_count_tokens() -> None:
    async def test() -> None:
        async with serving() as rig:
            scored = await rig.service.score([item("prompt", "a", "bb"), item("prompt", "ccc"), item("other", "d")])
            assert scored.usage == Usage(prompt_tokens=23, response_tokens=7, computed_tokens=18)
            first = scored.results[0]
            assert isinstance(first, ItemReadouts)
            assert (first.prompt_tokens, first.response_tokens, first.truncated) == (6, (1, 2), False)

    run(test)


def test_timings_are_those_of_the_slowest_pack() -> None:
    async def test() -> None:
        clock = Clock()
        async with serving(clock=clock, max_pack_tokens=5) as rig:
            seconds = iter((0.5, 2.0))

            def slowly(_pack: object) -> None:
                clock.now += next(seconds)

            rig.engine.fault = slowly
            scored = await rig.service.score([item("aaaa", "1"), item("bbbb", "2")])
            assert scored.timings.forward_seconds == pytest.approx(2.0)
            assert scored.timings.queue_seconds == pytest.approx(0.5)
            assert scored.timings.tokenize_seconds > 0

    run(test)


def test_truncation_is_handed_on_reported_and_counted() -> None:
    def shorten(one: Item, truncation: Truncation) -> TokenizedItem:
        return TokenizedItem(encode(one, truncation).conversations, truncated=truncation == "prompt_left")

    async def test() -> None:
        async with serving(encoder=shorten) as rig:
            scored = await rig.service.score([item("p", "a"), item("p", "b")], truncation="prompt_left")
            assert [result.truncated for result in scored.results if isinstance(result, ItemReadouts)] == [True, True]
            await rig.service.score([item("p", "a")])
            assert rig.sample("armoserve_truncations_total") == 2

    run(test)


def test_overload_refuses_the_whole_request() -> None:
    async def test() -> None:
        async with serving(max_queued_tokens=10) as rig:
            rig.engine.hold()
            first = asyncio.create_task(rig.service.score([item("busy", "x")]))
            await rig.engine.has_begun()
            second = asyncio.create_task(rig.service.score([item("waiting", "x")]))
            while rig.queued_tokens() == 0:
                await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await rig.service.score([item("a", "b"), item("c", "d")])
            rig.engine.release()
            await asyncio.gather(first, second)
            assert sum(pack.num_responses for pack in rig.engine.packs) == 2

    run(test)


def test_waiting_before_the_queue_and_in_it_have_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        clock, looks = Clock(), Mock()
        async with serving(clock=clock, max_pack_tokens=10, max_wait_seconds=10.0) as rig:
            looks.side_effect = rig.queue.has_room
            rig.queue.measured(tokens=10, seconds=6.0)

            def slowly(_pack: object) -> None:
                clock.now += 6.0
                rig.engine.hold()

            rig.engine.fault = slowly
            rig.engine.hold()
            running = asyncio.create_task(rig.service.score([item("p" * 9, "1")]))
            await rig.engine.has_begun()
            waiting = asyncio.create_task(rig.service.score([item("q" * 9, "2")]))
            await until(lambda: rig.queued_tokens() > 0)
            monkeypatch.setattr(rig.queue, "has_room", looks)
            asking = rig.service.score([item("r" * 9, "3")], waits_until=clock.now + 10.0)
            patient = asyncio.create_task(asking)
            await until(lambda: looks.called)
            rig.engine.release()
            await rig.engine.has_begun()  # 6 seconds more, of which 4 are left: no room, though 6 are less than 10
            clock.now += 4.0
            await until(lambda: patient.done() or rig.queued_tokens() > 0)
            assert isinstance(patient.exception(), Overloaded)
            rig.engine.release()
            await asyncio.gather(running, waiting)

    run(test)


def test_a_tokenizer_that_breaks_fails_the_request_and_its_log_has_no_text(caplog: pytest.LogCaptureFixture) -> None:
    def broken(one: Item, truncation: Truncation) -> TokenizedItem:
        raise RuntimeError(f"cannot take {one.prompt[-1].content}")

    async def test() -> None:
        async with serving(encoder=broken) as rig:
            with pytest.raises(InferenceFailed) as caught:
                await rig.service.score([item("a secret prompt", "r")])
            assert "secret" not in str(caught.value)

    with caplog.at_level(logging.INFO):
        run(test)
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_a_request_that_is_being_tokenised_counts_as_inside_when_draining() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(one: Item, truncation: Truncation) -> TokenizedItem:
        entered.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return encode(one, truncation)

    async def test() -> None:
        async with serving(encoder=slow) as rig:
            scoring = asyncio.create_task(rig.service.score([item("p", "r")]))
            await asyncio.to_thread(entered.wait, PATIENCE_SECONDS)
            draining = asyncio.create_task(rig.service.drain(timeout_seconds=10))
            await asyncio.sleep(0)
            go_on.set()
            assert await draining
            assert rewards_of((await scoring).results[0]) == [expected_rewards("p", "r")]

    run(test)


def test_a_request_that_is_being_tokenised_when_the_service_stops_is_told_so() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(one: Item, truncation: Truncation) -> TokenizedItem:
        entered.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return encode(one, truncation)

    async def test() -> None:
        async with serving(encoder=slow) as rig:
            scoring = asyncio.create_task(rig.service.score([item("p", "r")] * 10 * ITEMS_PER_CALL))
            await asyncio.to_thread(entered.wait, PATIENCE_SECONDS)
            stopping = asyncio.create_task(rig.service.stop())
            await asyncio.sleep(0)
            go_on.set()
            await stopping
            with pytest.raises(Draining):
                await scoring
            assert rig.engine.packs == []

    run(test)


def test_equal_prefixes_of_a_request_are_one_object() -> None:
    async def test() -> None:
        async with serving() as rig:
            with patch.object(rig.queue, "admit", wraps=rig.queue.admit) as admit:
                items = [item("pq"[number % 2], "a", "b") for number in range(3 * ITEMS_PER_CALL)]
                await rig.service.score(items)
            conversations = admit.call_args.args[0]
            assert len(conversations) == 6 * ITEMS_PER_CALL
            assert len({id(one.prefix) for one in conversations}) == 2

    run(test)


def test_the_readouts_of_many_responses_are_gathered_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    on_loop = []
    gather = service._scored

    def watched(*arguments: object) -> object:
        on_loop.append(asyncio._get_running_loop() is not None)
        return gather(*arguments)

    monkeypatch.setattr(service, "_scored", watched)

    async def test() -> None:
        async with serving(max_queued_tokens=100_000) as rig:
            for number in (GATHERED_AT_ONCE, GATHERED_AT_ONCE + 1):
                (result,) = (await rig.service.score([item("p", *("r" * (1 + n % 3) for n in range(number)))])).results
                assert rewards_of(result) == [expected_rewards("p", "r" * (1 + n % 3)) for n in range(number)]

    run(test)
    assert on_loop == [True, False]
