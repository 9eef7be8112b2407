"""The rules by which a pack is filled from a waiting line."""

import asyncio
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from app.domain import TokenizedConversation
from app.pack_builder import PackBuilder
from app.serving.jobs import Job
from app.serving.line import WaitingLine
from tests.serving.harness import conversation


def job(prompt: str, response: str) -> Job:
    future: asyncio.Future[object] = asyncio.Future(loop=asyncio.new_event_loop())
    future.get_loop().close()
    return Job(conversation(prompt, response), future, "interactive", None, 0.0)


def line_of(*jobs: Job) -> WaitingLine:
    line = WaitingLine()
    for one in jobs:
        line.add(one)
    return line


@dataclass(frozen=True)
class Recalled:
    num_tokens: int
    is_shareable: bool = False


def take(line: WaitingLine, budget: int, *, held: Job | None = None) -> list[Job]:
    builder = PackBuilder(budget)
    if held is not None:
        assert builder.try_add(held.conversation)
    return line.ride(builder, () if held is None else (held.prefix,)) + line.take(builder)


def test_jobs_go_in_order_of_arrival() -> None:
    jobs = [job(prompt, "r") for prompt in ("aa", "bb", "cc")]
    line = line_of(*jobs)
    assert take(line, 6) == jobs[:2]
    assert take(line, 6) == jobs[2:]
    assert take(line, 6) == []


def test_company_of_the_oldest_goes_with_it_whoever_came_between() -> None:
    first, between, companion = job("aaaa", "1"), job("bbbb", "2"), job("aaaa", "3")
    line = line_of(first, between, companion)
    assert take(line, 8) == [first, companion]
    assert take(line, 8) == [between]


def test_a_small_companion_passes_a_bigger_one_that_does_not_fit() -> None:
    first, big, small = job("aaaa", "1"), job("aaaa", "22222"), job("aaaa", "3")
    line = line_of(first, big, small)
    assert take(line, 9) == [first, small]
    assert take(line, 9) == [big]


def test_a_stranger_never_passes_a_job_that_does_not_fit() -> None:
    first, big, small = job("aa", "1"), job("bbbbbb", "2"), job("c", "3")
    line = line_of(first, big, small)
    assert take(line, 8) == [first]
    assert take(line, 8) == [big]
    assert take(line, 8) == [small]


def test_a_company_that_fits_a_pack_of_its_own_is_not_split() -> None:
    first = job("aa", "1")
    company = [job("bbbb", "2"), job("bbbb", "3")]
    line = line_of(first, *company)
    assert take(line, 8) == [first]
    assert take(line, 8) == company


def test_what_is_recalled_of_a_prefix_takes_no_room() -> None:
    companies = [[job(letter * 50, "1234"), job(letter * 50, "5678")] for letter in "abc"]
    line = line_of(*[one for company in companies for one in company])
    builder = PackBuilder(24, recall=lambda prefix: Recalled(len(prefix)))
    assert line.take(builder) == [one for company in companies for one in company]
    assert builder.num_tokens == 24


def test_a_company_bigger_than_any_pack_is_split() -> None:
    first = job("a", "1")
    company = [job("bb", "22") for _ in range(4)]
    line = line_of(first, *company)
    assert take(line, 8) == [first, *company[:2]]
    assert take(line, 8) == company[2:]


def test_company_of_a_prefix_that_is_in_the_pack_already_comes_first() -> None:
    older, companion = job("bb", "1"), job("aaaa", "2")
    line = line_of(older, companion)
    assert take(line, 6, held=job("aaaa", "0")) == [companion]


def test_the_first_company_of_a_line_fills_what_is_left_even_if_that_splits_it() -> None:
    company = [job("bb", "1"), job("bb", "222")]
    line = line_of(*company)
    assert take(line, 8, held=job("aaaa", "0")) == company[:1]


def test_tokens_count_a_shared_prefix_once_and_leave_with_the_last_that_needs_it() -> None:
    first, second = job("aaaa", "1"), job("aaaa", "22")
    line = line_of(first, second)
    assert line.num_tokens == 7
    line.remove(first)
    assert line.num_tokens == 6
    line.remove(second)
    assert line.num_tokens == 0
    assert len(line) == 0


def test_equal_prefixes_keep_company_whoever_made_them_and_unlike_gating_keeps_apart() -> None:
    waiting, equal = job("aaaa", "1"), job("aaaa", "22")
    other = job("aaaa", "3")
    other.conversation = TokenizedConversation(other.conversation.prefix_ids, (51,), 0)
    line = line_of(waiting)
    line.add(other, equal)
    assert line.num_tokens == 4 + 1 + 2 + 4 + 1
    assert take(line, 12) == [waiting, equal, other]
    assert line.num_tokens == 0


conversations = st.tuples(st.sampled_from(["p", "qq", "rrrr", "ssssss"]), st.sampled_from(["1", "22", "4444"]))


@given(st.lists(conversations, min_size=1, max_size=30), st.integers(10, 40), st.data())
def test_every_pack_starts_with_the_oldest_and_nothing_is_lost(
    wanted: list[tuple[str, str]], budget: int, data: st.DataObject
) -> None:
    """Also while new jobs keep coming: the k-th oldest is taken after k packs at the latest."""
    waiting = [job(*one) for one in wanted]
    line = line_of(*waiting)
    rounds = len(waiting)
    arrivals = data.draw(st.lists(conversations, min_size=rounds, max_size=rounds))
    for arrival in arrivals:
        before = list(line)
        builder = PackBuilder(budget)
        taken = line.take(builder)
        assert taken
        assert taken[0] is before[0]
        assert len(set(taken)) == len(taken)
        assert [one for one in before if one not in taken] == list(line)
        assert builder.num_responses == len(taken)
        assert builder.num_tokens <= budget
        line.add(job(*arrival))
    assert not set(waiting) & set(line)
