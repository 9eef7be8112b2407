"""One priority's waiting line: whose turn it is, who came first, and who shares a prefix with whom.

How a pack is filled from a line:

1. Callers take turns: next is who was served fewest tokens; who comes new, or again, begins at what the last turn led
   to, and goes first among equals. So a caller waits for one turn of each other at most, however much they queued.
2. A turn is the caller's oldest job, and with it its company: the jobs that wait on the same prefix, which cost only
   their response. The caller's own go first; those of others are counted as theirs.
3. A company that fits a pack of its own is not split to use up the end of one, unless it is the first that this line
   puts into the pack.
4. The first turn that does not fit closes the pack.

No job is passed over for ever: a pack that starts empty starts with the oldest job of whose turn it is, which always
fits, and those that pass it ride on prefixes brought before its turn. So a caller's k-th oldest job is its oldest after
at most k of its turns, and a turn comes, since each raises what those who come later begin at.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias

from app.domain import Prefix
from app.packing import PackBuilder
from app.serving.jobs import Job

Jobs: TypeAlias = dict[Job, None]
"""In order of arrival, each removable at any time."""


@dataclass(slots=True)
class _Company:
    """The jobs that wait on one prefix, by caller; forgotten with the last of them."""

    prefix: Prefix
    jobs: dict[str, Jobs]
    num_response_tokens: int = 0


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

    def take(self, builder: PackBuilder) -> list[Job]:
        """Move jobs into `builder` by the rules above."""
        taken: list[Job] = []
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
            elif self._fits(*next(iter(caller.jobs.items())), builder, may_split=first):
                taken += self._take_turn(name, builder)
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

    def _take_turn(self, name: str, builder: PackBuilder) -> list[Job]:
        caller = self._callers[name]
        company = next(iter(caller.jobs.values()))
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
