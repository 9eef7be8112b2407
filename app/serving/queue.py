"""Admission and order: which jobs wait, how long that takes, and which go into the next pack.

Lives on the event loop and is never locked. It knows tokens, priorities and deadlines, not what a token means, who
computes it or what a caller is.

Limits count what goes before a request: for an interactive one its turns and those of others meanwhile in the
interactive line, for a bulk one the same in the bulk line and all of the interactive one. So a bulk flood never has
interactive work refused, nor one caller's flood another's; n callers together may queue 1 + 1/2 + … + 1/n times
`max_queued_tokens` at each priority. The seconds after which to retry are the estimate itself: jitter
is added where they become a header.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import get_args

from app.domain import TokenizedConversation
from app.errors import DeadlineExceeded, Overloaded, TooManyTokens
from app.pack_builder import PackBuilder
from app.serving.door import Door, Refusal
from app.serving.jobs import Job, Priority, num_packed_tokens
from app.serving.line import WaitingLine
from app.serving.metrics import Metrics
from app.serving.pack_plan import PackPlan
from app.serving.record import current_record
from app.serving.throughput import Throughput

__all__ = ["Job", "JobQueue", "Priority"]

BULK_LEADS_AFTER = 8
"""Packs in a row that bulk waits through, after which it leads one: interactive loses a ninth at most."""

SHORTEST_RETRY_SECONDS = 1.0


class JobQueue:
    """Two waiting lines, interactive before bulk, with all-or-none admission."""

    def __init__(
        self,
        metrics: Metrics,
        plan: PackPlan,
        *,
        max_queued_tokens: int,
        max_wait_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_pack_tokens = plan.max_tokens
        self.max_queued_tokens = max_queued_tokens
        self.max_wait_seconds = max_wait_seconds
        self.clock = clock
        self.door = Door()
        self._metrics = metrics
        self._plan = plan
        self._lines: dict[Priority, WaitingLine] = {priority: WaitingLine() for priority in get_args(Priority)}
        self._throughput = Throughput()
        self._due: dict[Job, Sequence[Job]] = {}
        """The jobs of each request with a deadline, by its first, until it leaves or its deadline has passed."""
        self._running_tokens = 0
        self._packs_without_bulk = 0
        self._refusal: Refusal | None = None
        self._jobs_wait = asyncio.Event()

    def check_open(self) -> None:
        """Turn away those inside as well once the queue has been abandoned.

        Raises:
            Draining, NotReady: it has been.
        """
        if self._refusal is not None:
            raise self._refusal()

    def check_size(self, conversations: Sequence[TokenizedConversation]) -> None:
        """Refuse what could never be placed, however long it waited.

        Raises:
            TooManyTokens: a conversation is longer than a pack.
        """
        num_tokens = [len(one.prefix_ids) + len(one.response_ids) for one in conversations]
        if max(num_tokens, default=0) > self.max_pack_tokens:
            index, excess = next((index, one) for index, one in enumerate(num_tokens) if one > self.max_pack_tokens)
            raise TooManyTokens(
                f"the conversation with response {index} has {excess} tokens; "
                f"one pack takes at most {self.max_pack_tokens}"
            )

    def has_room(
        self,
        conversations: Sequence[TokenizedConversation],
        priority: Priority,
        patience_seconds: float | None = None,
    ) -> bool:
        """Say whether this request would be let in now; None may wait as long as any, 0 not at all."""
        return self._has_room(num_packed_tokens(conversations), priority, patience_seconds)

    def admit(
        self,
        conversations: Sequence[TokenizedConversation],
        priority: Priority,
        deadline: float | None = None,
        *,
        patience_seconds: float | None = None,
    ) -> list[Job]:
        """Put all of one request's conversations into the queue, or none; the patience is that of `has_room`.

        Raises:
            TooManyTokens: one could never fit a pack, or all of them could never fit the queue.
            Overloaded: they would wait too long, or too much is waiting already.
            DeadlineExceeded: the deadline has passed.
            Draining, NotReady: the queue has been abandoned.
        """
        now = self.clock()
        self.check_open()
        self.check_size(conversations)
        if deadline is not None and deadline <= now:
            self._metrics.dropped.labels("deadline").inc(len(conversations))
            raise _deadline_exceeded()
        self._check_load(conversations, priority, patience_seconds)
        new_future, record = asyncio.get_running_loop().create_future, current_record()
        jobs = [Job(one, new_future(), priority, deadline, now, record) for one in conversations]
        self._lines[priority].add(*jobs)
        if deadline is not None and jobs:
            self._due[jobs[0]] = jobs
        self._changed()
        return jobs

    def expire(self, jobs: Sequence[Job]) -> None:
        """Fail those of `jobs`, all of one request, that still wait: their deadline has passed."""
        waiting = self._drop(jobs)
        num_failed = sum([job.fail(_deadline_exceeded()) for job in waiting])
        self._metrics.dropped.labels("deadline").inc(num_failed)
        self._changed()

    def withdraw(self, jobs: Sequence[Job]) -> None:
        """Drop those of `jobs`, all of one request, that still wait: their caller has left or has all that it wants."""
        waiting = self._drop(jobs)
        for job in jobs:
            job.abandon()
        if waiting:
            self._metrics.dropped.labels("cancelled").inc(len(waiting))
            self._changed()

    def estimated_wait_seconds(self, priority: Priority) -> float | None:
        """Estimate how long all that waits now will take; None before the first forward was measured."""
        return self._seconds_for(self._waiting_tokens(priority) + self._running_tokens)

    def is_full(self) -> bool:
        """Say whether a caller whose interactive requests these were would be refused another, whatever its size."""
        wait_seconds = self.estimated_wait_seconds("interactive") or 0.0
        return self._waiting_tokens("interactive") >= self.max_queued_tokens or wait_seconds > self.max_wait_seconds

    async def wait_for_jobs(self) -> None:
        """Return once at least one job waits."""
        await self._jobs_wait.wait()

    def new_pack(self) -> PackBuilder:
        """Begin a pack, for `take` to fill."""
        return self._plan.new_pack()

    def take(self, builder: PackBuilder) -> list[Job]:
        """Fill `builder` with the jobs that go next, in pack order; empty where all that waited were dropped.

        Interactive first, and of bulk only what rides on the same prefixes: it would make the pack longer, and those
        who came first wait for that. So bulk has packs where no interactive work waits, and leads one after
        `BULK_LEADS_AFTER` without it, where no interactive work is held back for what bulk computes. Bulk that is held
        back may have to wait until it leads again.
        """
        self._expire_due()
        interactive, bulk = self._lines["interactive"], self._lines["bulk"]
        bulk_leads = self._packs_without_bulk >= BULK_LEADS_AFTER
        first, second = (bulk, interactive) if bulk_leads else (interactive, bulk)
        pack_seconds = self._seconds_for(self.max_pack_tokens) or math.inf
        next_at, next_bulk_at = (self.clock() + num_packs * pack_seconds for num_packs in (1, BULK_LEADS_AFTER + 1))
        jobs = first.take(builder, next_bulk_at if bulk_leads else next_at)
        is_shared = bulk_leads or not jobs
        jobs += second.ride(builder, dict.fromkeys(job.prefix for job in jobs))
        jobs += second.take(builder, None if bulk_leads else next_bulk_at) if is_shared else []
        self._packs_without_bulk = 0 if is_shared or not bulk else self._packs_without_bulk + 1
        self._running_tokens = builder.num_tokens
        self._changed()
        return jobs

    def measured(self, tokens: int, seconds: float, cached_tokens: int = 0) -> None:
        """Learn the engine's speed from one forward pass.

        What waits is counted as if nothing were cached, and so is the speed that its wait is estimated by.
        """
        self._plan.record(tokens, seconds, cached_tokens)
        self._throughput.record(tokens + cached_tokens, seconds)

    def released(self) -> None:
        """Learn that the engine is free again."""
        self._running_tokens = 0
        self._changed()

    def abandon(self, refusal: Refusal) -> None:
        """Fail all that waits and all that comes."""
        self.door.close(refusal)
        self._refusal = self._refusal or refusal
        self._due.clear()
        for line in self._lines.values():
            waiting = list(line)
            line.remove(*waiting)
            for job in waiting:
                job.fail(refusal())
        self._changed()

    def _check_load(
        self, conversations: Sequence[TokenizedConversation], priority: Priority, patience_seconds: float | None
    ) -> None:
        tokens = num_packed_tokens(conversations)
        if tokens > self.max_queued_tokens:
            raise TooManyTokens(f"the request has {tokens} tokens; the queue takes at most {self.max_queued_tokens}")
        if not self._has_room(tokens, priority, patience_seconds):
            self._metrics.dropped.labels("overload").inc(len(conversations))
            retry_after_seconds = self._seconds_to_room(tokens, priority)
            raise Overloaded("more work is waiting than can be done in time", retry_after_seconds)

    def _has_room(self, tokens: int, priority: Priority, patience_seconds: float | None) -> bool:
        patience_seconds = self.max_wait_seconds if patience_seconds is None else max(patience_seconds, 0.0)
        wait_seconds = self._seconds_before(tokens, priority)
        return self._surplus_tokens(tokens, priority) <= 0 and wait_seconds <= patience_seconds

    def _seconds_to_room(self, tokens: int, priority: Priority) -> float:
        """Estimate when the same request would be let in if it came anew."""
        surplus_tokens = max(self._surplus_tokens(tokens, priority), 0)
        until_room_seconds = self._seconds_for(surplus_tokens) or 0.0
        surplus_seconds = self._seconds_before(tokens, priority) - self.max_wait_seconds
        return max(until_room_seconds, surplus_seconds, SHORTEST_RETRY_SECONDS)

    def _surplus_tokens(self, tokens: int, priority: Priority) -> int:
        return self._tokens_before(tokens, priority) + tokens - self.max_queued_tokens

    def _seconds_for(self, tokens: int) -> float | None:
        """Estimate how long so many waiting tokens take, in packs as large as they are made now."""
        return self._throughput.seconds_for(tokens, self._plan.full_pack_tokens)

    def _seconds_before(self, tokens: int, priority: Priority) -> float:
        before = self._tokens_before(tokens, priority)
        return self._seconds_for(before + self._running_tokens) or 0.0

    def _tokens_before(self, tokens: int, priority: Priority) -> int:
        """Count what would be computed before the last of so many more tokens of the caller that asks now."""
        before = self._lines[priority].tokens_before(current_record().caller, tokens)
        return before + (self._lines["interactive"].num_tokens if priority == "bulk" else 0)

    def _waiting_tokens(self, priority: Priority) -> int:
        if priority == "interactive":
            return self._lines["interactive"].num_tokens
        return sum(line.num_tokens for line in self._lines.values())

    def _expire_due(self) -> None:
        now = self.clock()
        for first, jobs in tuple(self._due.items()):
            if first.deadline is not None and first.deadline <= now:
                self.expire(jobs)

    def _drop(self, jobs: Sequence[Job]) -> list[Job]:
        """Take those of one request that still wait out of their line."""
        if not jobs:
            return []
        self._due.pop(jobs[0], None)
        line = self._lines[jobs[0].priority]
        waiting = [job for job in jobs if job in line]
        line.remove(*waiting)
        return waiting

    def _changed(self) -> None:
        for priority, line in self._lines.items():
            self._metrics.queued_tokens.labels(priority).set(line.num_tokens)
        self._metrics.queue_wait_estimate.set(self.estimated_wait_seconds("bulk") or 0.0)
        if any(self._lines.values()):
            self._jobs_wait.set()
        else:
            self._jobs_wait.clear()


def _deadline_exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the forward pass began")
