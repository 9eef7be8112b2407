"""Which priority goes into the next pack: interactive first, bulk in packs of its own or as a rider."""

from app.pack_builder import PackBuilder
from app.serving.jobs import Job
from app.serving.queue import BULK_LEADS_AFTER, JobQueue
from tests.serving.harness import conversation, make_queue, run


def take(queue: JobQueue) -> list[Job]:
    return queue.take(PackBuilder(queue.max_pack_tokens))


def test_interactive_goes_before_bulk_and_bulk_makes_its_pack_no_longer() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=12)
        bulk = queue.admit([conversation("aaa", "1"), conversation("bbb", "2")], "bulk")
        interactive = queue.admit([conversation("ccc", "3"), conversation("ddd", "4")], "interactive")
        assert take(queue) == interactive
        assert take(queue) == bulk

    run(test)


def test_interactive_fills_what_bulk_leaves_where_bulk_leads() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=8)
        bulk = queue.admit([conversation("bbb", "b")], "bulk")
        for _ in range(BULK_LEADS_AFTER):
            queue.admit([conversation("iii", "i")], "interactive")
            take(queue)
        waiting = queue.admit([conversation("iii", "i"), conversation("jjj", "j")], "interactive")
        assert take(queue) == [*bulk, waiting[0]]

    run(test)


def test_riders_do_not_keep_other_bulk_from_leading() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=6)
        (other,) = queue.admit([conversation("bbb", "b")], "bulk")
        for _ in range(BULK_LEADS_AFTER):
            (rider,) = queue.admit([conversation("iii", "r")], "bulk")
            (interactive,) = queue.admit([conversation("iii", "i")], "interactive")
            assert take(queue) == [interactive, rider]
        queue.admit([conversation("iii", "i")], "interactive")
        assert take(queue)[0] is other

    run(test)


def test_bulk_rides_on_a_prefix_that_interactive_brings() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=10)
        first, same = queue.admit([conversation("bbbbbb", "1"), conversation("aaaaaa", "2")], "bulk")
        interactive = queue.admit([conversation("aaaaaa", "33")], "interactive")
        assert take(queue) == [*interactive, same]
        assert take(queue) == [first]

    run(test)


def test_bulk_leads_a_pack_after_waiting_through_several() -> None:
    async def test() -> None:
        queue = make_queue(max_pack_tokens=4)
        bulk = queue.admit([conversation("bbb", "b")], "bulk")
        for _ in range(BULK_LEADS_AFTER):
            interactive = queue.admit([conversation("iii", "i")], "interactive")
            assert take(queue) == interactive
        waiting = queue.admit([conversation("iii", "i")], "interactive")
        assert take(queue) == bulk
        assert take(queue) == waiting

    run(test)
