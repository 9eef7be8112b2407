"""One priority's waiting line: whose turn it is, who came first, and who shares a prefix with whom.

How a pack is filled from a line:

1. Callers take turns: next is who was served fewest tokens; who comes new, or again, begins at what the last turn led
   to, and goes first among equals. So a caller waits for one turn of each other at most, however much they queued.
2. A turn is the caller's oldest job, and with it its company: the jobs that wait on the same prefix, which cost only
   their response. The caller's own go first; those of others are counted as theirs.
3. A company that fits a pack of its own is not split to use up the end of one, unless it is the first that this line
   puts into the pack.
4. The first turn that does not fit closes the pack for all but company of prefixes that are in it already.

No job is passed over for ever: a pack that starts empty starts with the oldest job of whose turn it is, which always
fits, and those that pass it ride on prefixes brought before its turn. So a caller's k-th oldest job is its oldest after
at most k of its turns, and a turn comes, since each raises what those who come later begin at.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import TypeAlias

from app.packing import PackBuilder
from app.serving.jobs import Job, Prefix

Jobs: TypeAlias = dict[Job, None]
"""In order of arrival, each removable at any time."""


@dataclass(slots=True)
class _Caller:
    """Who has jobs here; forgotten with the last of them."""

    served_tokens: int
    last_turn: int = 0
    num_tokens: int = 0
    """Tokens to compute if its jobs shared their prefixes."""
    jobs: Jobs = field(default_factory=dict)


class WaitingLine:
    """Jobs by caller and by prefix."""

    def __init__(self) -> None:
        self.num_tokens = 0
        """Tokens to compute if all that wait here shared their prefixes."""
        self._num_jobs = 0
        self._callers: dict[str, _Caller] = {}
        self._companies: dict[Prefix, dict[str, Jobs]] = {}
        self._num_turns = 0
        self._last_served_tokens = 0

    def __len__(self) -> int:
        return self._num_jobs

    def __iter__(self) -> Iterator[Job]:
        return iter([job for caller in self._callers.values() for job in caller.jobs])

    def __contains__(self, job: Job) -> bool:
        caller = self._callers.get(job.caller)
        return caller is not None and job in caller.jobs

    def add(self, job: Job) -> None:
        """Put `job` at the end of its caller's."""
        company = self._companies.setdefault(job.prefix, {})
        caller = self._callers.setdefault(job.caller, _Caller(self._last_served_tokens))
        self.num_tokens += job.num_response_tokens + (0 if company else job.num_prefix_tokens)
        own = company.setdefault(job.caller, {})
        caller.num_tokens += job.num_response_tokens + (0 if own else job.num_prefix_tokens)
        caller.jobs[job] = own[job] = None
        self._num_jobs += 1

    def remove(self, job: Job) -> None:
        """Take `job` out, wherever it stands."""
        caller, company = self._callers[job.caller], self._companies[job.prefix]
        own = company[job.caller]
        del caller.jobs[job], own[job]
        self._num_jobs -= 1
        self.num_tokens -= job.num_response_tokens
        caller.num_tokens -= job.num_response_tokens
        if not own:
            del company[job.caller]
            caller.num_tokens -= job.num_prefix_tokens
        if not company:
            del self._companies[job.prefix]
            self.num_tokens -= job.num_prefix_tokens
        if not caller.jobs:
            del self._callers[job.caller]

    def tokens_before(self, caller: str, num_tokens: int) -> int:
        """Count what goes before the last of `num_tokens` more of a caller: all of its own, as much of each other."""
        own_tokens = self._callers[caller].num_tokens if caller in self._callers else 0
        with_these = own_tokens + num_tokens
        others = (min(one.num_tokens, with_these) for name, one in self._callers.items() if name != caller)
        return min(own_tokens + sum(others), self.num_tokens)

    def take(self, builder: PackBuilder, present: Iterable[Prefix]) -> list[Job]:
        """Move jobs into `builder` by the rules above; `present` are prefixes that it already holds."""
        taken = [job for prefix in present for job in self._take_company(prefix, builder)]
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
            elif self._fits(next(iter(caller.jobs)), builder, may_split=first):
                taken += self._take_turn(name, builder)
                first = False
            else:
                break
        return taken

    def _fits(self, job: Job, builder: PackBuilder, *, may_split: bool) -> bool:
        room_tokens = builder.token_budget - builder.num_tokens
        if builder.cost_tokens(job.conversation) > room_tokens:
            return False
        return may_split or not room_tokens < self._company_tokens(job) <= builder.token_budget

    def _company_tokens(self, job: Job) -> int:
        company = self._companies[job.prefix]
        return job.num_prefix_tokens + sum(member.num_response_tokens for jobs in company.values() for member in jobs)

    def _take_turn(self, name: str, builder: PackBuilder) -> list[Job]:
        caller = self._callers[name]
        oldest = next(iter(caller.jobs))
        self._num_turns += 1
        caller.last_turn = self._num_turns
        caller.served_tokens += builder.cost_tokens(oldest.conversation) - oldest.num_response_tokens
        taken = self._take_company(oldest.prefix, builder, first=name)
        self._last_served_tokens = caller.served_tokens
        return taken

    def _take_company(self, prefix: Prefix, builder: PackBuilder, first: str | None = None) -> list[Job]:
        company = self._companies.get(prefix, {})
        in_order = company if first is None else {first: company[first]} | company
        taken = []
        for job in (job for jobs in in_order.values() for job in jobs):
            # The length first: it refuses most of a long company without hashing its prefix again.
            fits = builder.num_tokens + job.num_response_tokens <= builder.token_budget
            if fits and builder.try_add(job.conversation):
                taken.append(job)
        for job in taken:
            self._callers[job.caller].served_tokens += job.num_response_tokens
            self.remove(job)
        return taken
