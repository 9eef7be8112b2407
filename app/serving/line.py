"""One priority's waiting line: whose turn it is, who came first, and who shares a prefix with whom.

How a pack is filled from a line:

1. Callers take turns: next is who was served fewest tokens; who comes new, or again, begins at what the last turn led
   to, and goes first among equals. So a caller waits for one turn of each other at most, however much they queued.
2. A turn is the caller's oldest job, and with it its company: the jobs that wait on the same prefix, which cost only
   their response. The caller's own go first; those of others are counted as theirs.
3. A company that fits a pack of its own is not split to use up the end of one, unless it is the first that this line
   puts into the pack.
4. A company whose prefix begins with much that the pack computes is held back, once: in the next pack it costs less,
   since the beginning is remembered by then. Its callers' turns go to what else they have.
5. The first turn that does not fit closes the pack.

No job is passed over for ever: a pack that starts empty starts with the oldest job of whose turn it is, which always
fits, and those that pass it ride on prefixes brought before its turn, or pass it once while it is held back. So a
caller's k-th oldest job is its oldest after at most k of its turns, and a turn comes, since each raises what those who
come later begin at.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import TypeAlias

from app.domain import Prefix
from app.pack_builder import PackBuilder
from app.serving.jobs import Job

Jobs: TypeAlias = dict[Job, None]
"""In order of arrival, each removable at any time."""

MOST_PASSED = 512
"""Jobs of a caller that are looked at once one is held back: the event loop stands still for it, 10 ms at most."""


@dataclass(slots=True)
class _Company:
    """The jobs that wait on one prefix, by caller; forgotten with the last of them."""

    prefix: Prefix
    jobs: dict[str, Jobs]
    num_response_tokens: int = 0
    held_from: int = 0
    """The number of the take that it was held back from."""

    def can_wait_until(self, time: float) -> bool:
        """Say whether no job's deadline has passed by then; monotonic seconds."""
        return all(job.deadline is None or job.deadline > time for own in self.jobs.values() for job in own)


Turn: TypeAlias = tuple[Job, _Company]
"""A caller's oldest job, and its company."""


@dataclass(slots=True)
class _Caller:
    """Who has jobs here; forgotten with the last of them."""

    served_tokens: int
    last_turn: int = 0
    num_tokens: int = 0
    """Tokens to compute if its jobs shared their prefixes."""
    jobs: dict[Job, _Company] = field(default_factory=dict)
    """In order of arrival, each with its company."""


class WaitingLine:
    """Jobs by caller and by prefix."""

    def __init__(self) -> None:
        self.num_tokens = 0
        """Tokens to compute if all that wait here shared their prefixes."""
        self._num_jobs = 0
        self._callers: dict[str, _Caller] = {}
        self._companies: dict[Prefix, _Company] = {}
        self._num_takes = 0
        self._num_turns = 0
        self._last_served_tokens = 0

    def __len__(self) -> int:
        return self._num_jobs

    def __iter__(self) -> Iterator[Job]:
        return iter([job for caller in self._callers.values() for job in caller.jobs])

    def __contains__(self, job: Job) -> bool:
        caller = self._callers.get(job.caller)
        return caller is not None and job in caller.jobs

    def add(self, *jobs: Job) -> None:
        """Put `jobs` at the end of their callers'."""
        companies: dict[Prefix, _Company] = {}  # holds these jobs' own prefixes, found without comparing their ids
        for job in jobs:
            conversation, name = job.conversation, job.record.caller
            prefix = conversation.prefix
            company = companies.get(prefix)
            if company is None:
                company = companies[prefix] = self._company(prefix)
            caller = self._callers.get(name)
            if caller is None:
                caller = self._callers[name] = _Caller(self._last_served_tokens)
            own = company.jobs.get(name)
            if own is None:
                self.num_tokens += 0 if company.jobs else len(prefix)
                caller.num_tokens += len(prefix)
                own = company.jobs[name] = {}
            num_response_tokens = len(conversation.response_ids)
            own[job] = None
            caller.jobs[job] = company
            caller.num_tokens += num_response_tokens
            company.num_response_tokens += num_response_tokens
            self.num_tokens += num_response_tokens
        self._num_jobs += len(jobs)

    def remove(self, *jobs: Job) -> None:
        """Take `jobs` out, wherever they stand."""
        for job in jobs:
            name, num_response_tokens = job.caller, job.num_response_tokens
            caller = self._callers[name]
            company = caller.jobs.pop(job)
            own = company.jobs[name]
            del own[job]
            caller.num_tokens -= num_response_tokens
            company.num_response_tokens -= num_response_tokens
            self.num_tokens -= num_response_tokens
            if not own:
                del company.jobs[name]
                caller.num_tokens -= job.num_prefix_tokens
                if not company.jobs:
                    del self._companies[company.prefix]
                    self.num_tokens -= job.num_prefix_tokens
            if not caller.jobs:
                del self._callers[name]
        self._num_jobs -= len(jobs)

    def tokens_before(self, caller: str, num_tokens: int) -> int:
        """Count what goes before the last of `num_tokens` more of a caller: all of its own, as much of each other."""
        own_tokens = self._callers[caller].num_tokens if caller in self._callers else 0
        with_these = own_tokens + num_tokens
        others = (min(one.num_tokens, with_these) for name, one in self._callers.items() if name != caller)
        return min(own_tokens + sum(others), self.num_tokens)

    def ride(self, builder: PackBuilder, present: Iterable[Prefix]) -> list[Job]:
        """Move the company of prefixes that `builder` holds already into it, as far as it has room."""
        companies = [self._companies[prefix] for prefix in present if prefix in self._companies]
        return [job for company in companies for job in self._take_company(company, builder)]

    def take(self, builder: PackBuilder, next_pack_at: float | None = None) -> list[Job]:
        """Move jobs into `builder` by the rules above.

        `next_pack_at` is when the next pack begins at the latest: what must begin sooner is not held back for it, and
        nothing is where it is None.
        """
        taken: list[Job] = []
        self._num_takes += 1
        hold = partial(self._holds, builder, next_pack_at)
        passed: dict[str, Iterator[Turn]] = {}
        turns = [
            (one.served_tokens, one.last_turn, order, name) for order, (name, one) in enumerate(self._callers.items())
        ]
        heapify(turns)
        first = True
        while turns:
            served_tokens, _, order, name = turns[0]
            caller = self._callers.get(name)
            if caller is None:
                heappop(turns)
            elif caller.served_tokens != served_tokens:  # it had a turn, or rode on another's
                heapreplace(turns, (caller.served_tokens, caller.last_turn, order, name))
            elif (turn := _next_turn(caller.jobs, passed, name, hold)) is None:  # what it has is held back
                heappop(turns)
            elif self._fits(*turn, builder, may_split=first):
                taken += self._take_turn(name, turn[1], builder)
                first = False
            else:
                break
        return taken

    def _company(self, prefix: Prefix) -> _Company:
        company = self._companies.get(prefix)
        if company is None:
            company = self._companies[prefix] = _Company(prefix, {})
        return company

    def _fits(self, job: Job, company: _Company, builder: PackBuilder, *, may_split: bool) -> bool:
        room_tokens = builder.room_tokens
        prefix_tokens = builder.prefix_cost_tokens(company.prefix)
        if prefix_tokens + job.num_response_tokens > room_tokens:
            return False
        return may_split or not room_tokens < prefix_tokens + company.num_response_tokens <= builder.token_budget

    def _holds(self, builder: PackBuilder, next_pack_at: float | None, company: _Company) -> bool:
        """Say whether a company is held back from this take, after deciding that where it never was."""
        if (
            next_pack_at is not None
            and not company.held_from
            and builder.is_worth_awaiting(company.prefix)
            and company.can_wait_until(next_pack_at)
        ):
            company.held_from = self._num_takes
        return company.held_from == self._num_takes

    def _take_turn(self, name: str, company: _Company, builder: PackBuilder) -> list[Job]:
        caller = self._callers[name]
        self._num_turns += 1
        caller.last_turn = self._num_turns
        caller.served_tokens += builder.prefix_cost_tokens(company.prefix)
        taken = self._take_company(company, builder, first=name)
        self._last_served_tokens = caller.served_tokens
        return taken

    def _take_company(self, company: _Company, builder: PackBuilder, first: str | None = None) -> list[Job]:
        in_order = company.jobs if first is None else {first: company.jobs[first]} | company.jobs
        jobs = [job for own in in_order.values() for job in own]
        taken = [jobs[index] for index in builder.fill(company.prefix, [job.conversation.response_ids for job in jobs])]
        for job in taken:
            self._callers[job.caller].served_tokens += job.num_response_tokens
        self.remove(*taken)
        return taken


def _next_turn(
    jobs: dict[Job, _Company], passed: dict[str, Iterator[Turn]], name: str, hold: Callable[[_Company], bool]
) -> Turn | None:
    """Return a caller's oldest job that is not held back; None where all are that are looked at.

    `passed` remembers how far that was, from the first that was held back on: else each turn would pass all of them.
    """
    if name not in passed:
        turn = next(iter(jobs.items()))
        if not hold(turn[1]):
            return turn
        passed[name] = iter(list(islice(jobs.items(), MOST_PASSED)))
    return next(((job, company) for job, company in passed[name] if job in jobs and not hold(company)), None)
