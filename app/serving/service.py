"""What a route calls: items in, readouts out. Knows neither HTTP nor what a token means."""

import asyncio
import logging
import random
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from app.domain import (
    Item,
    Prefix,
    Readout,
    Timings,
    TokenizedConversation,
    TokenizedItem,
    Truncation,
)
from app.errors import ArmoserveError, InferenceFailed, RequestError
from app.serving.batcher import Batcher
from app.serving.jobs import Job, JobResult, Priority, num_packed_tokens
from app.serving.metrics import Metrics
from app.serving.queue import JobQueue
from app.serving.record import Usage, current_record

logger = logging.getLogger(__name__)

Outcome: TypeAlias = JobResult | InferenceFailed
Encode: TypeAlias = Callable[[Item, Truncation], TokenizedItem]

LONGEST_PAUSE_SECONDS = 0.5
"""Between two looks at a full queue; jittered, so that those who wait do not look all at once."""
ITEMS_PER_CALL = 8
"""Items tokenised per hop to a thread: enough to make the hop cheap, few enough to take turns with other requests."""


GATHERED_AT_ONCE = 256
"""Responses of one request of which more would hold the event loop for longer than a few milliseconds."""


@dataclass(frozen=True, slots=True)
class ItemReadouts:
    """The readouts of one item, in the order of its responses."""

    readouts: tuple[Readout, ...]
    prompt_tokens: int
    response_tokens: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class ScoredItems:
    """One result per item, in order: its readouts, or the error that is its own."""

    results: tuple[ItemReadouts | ArmoserveError, ...]
    usage: Usage
    timings: Timings


class ScoringService:
    """Tokenise, queue, gather."""

    def __init__(
        self, encode: Encode, queue: JobQueue, batcher: Batcher, metrics: Metrics, *, tokenize_threads: int = 2
    ) -> None:
        self._encode = encode
        self._queue = queue
        self._batcher = batcher
        self._metrics = metrics
        self._tokenize_threads = tokenize_threads
        self._pool = ThreadPoolExecutor(tokenize_threads, thread_name_prefix="armoserve-tokenize")

    async def start(self) -> None:
        """Start the engine."""
        await self._batcher.start()

    async def drain(self, timeout_seconds: float) -> bool:
        """Let no new request in and finish those inside; say whether that was done in time."""
        return await self._batcher.drain(timeout_seconds)

    async def stop(self) -> None:
        """Fail what is left with Draining and end the threads."""
        await self._batcher.stop()
        self._pool.shutdown(wait=False)  # those still tokenising are turned away at their next step

    def alive(self) -> bool:
        """Say whether the engine answers; False from the moment it cannot score any more."""
        return self._batcher.alive()

    def has_ended(self) -> bool:
        """Say whether the engine will never score again; every error from then on says nothing of its item."""
        return self._batcher.has_ended()

    async def score(
        self,
        items: Sequence[Item],
        *,
        truncation: Truncation = "never",
        priority: Priority = "interactive",
        deadline: float | None = None,
        waits_until: float | None = None,
        encode: Encode | None = None,
    ) -> ScoredItems:
        """Score every response of `items`; `deadline` is in monotonic seconds. Cancelling drops what still waits.
        `encode` is how to tokenise these items, where that is not as any others.

        A request that `waits_until` some time, in monotonic seconds too, stands before a full queue first; it is let in
        where it would wait inside, by the estimate, until then at most, and no longer than any job may.

        An item that is at fault itself, or whose forward pass failed, is an error in the results, beside the others.

        Raises:
            Overloaded, Draining, NotReady: nothing was computed; the same request may succeed later.
            DeadlineExceeded: the deadline passed before the last forward pass began.
            TooManyTokens: the items together are more than the queue ever takes.
            InferenceFailed: every item failed in the model.
        """
        with self._queue.door.entrance():
            began_at = time.monotonic()
            tokenized = await self._tokenize(items, truncation, encode or self._encode)
            tokenized_at = time.monotonic()
            tokenize_seconds = tokenized_at - began_at
            self._metrics.tokenize_seconds.observe(tokenize_seconds)
            record = current_record()
            record.tokenized(len(items), began_at, tokenized_at)
            fitting = [one for one in tokenized if isinstance(one, TokenizedItem)]
            self._metrics.truncations.inc(sum(one.truncated for one in fitting))
            conversations = [conversation for one in fitting for conversation in one.conversations]
            jobs = await self._enter(conversations, priority, deadline, waits_until) if conversations else []
            outcomes = await self._outcomes(jobs, deadline)
            gather = partial(_scored, tokenized, outcomes, tokenize_seconds)
            scored = await asyncio.to_thread(gather) if len(jobs) > GATHERED_AT_ONCE else gather()
            record.scored(scored.usage, scored.timings)
            return scored

    async def _enter(
        self,
        conversations: Sequence[TokenizedConversation],
        priority: Priority,
        deadline: float | None,
        waits_until: float | None,
    ) -> list[Job]:
        """Put these conversations into the queue, once there is room where the request waits for that."""
        patience_seconds = None
        if waits_until is not None:
            patience_seconds = await self._wait_for_room(conversations, priority, deadline, waits_until)
        return self._queue.admit(conversations, priority, deadline, patience_seconds=patience_seconds)

    async def _wait_for_room(
        self,
        conversations: Sequence[TokenizedConversation],
        priority: Priority,
        deadline: float | None,
        waits_until: float,
    ) -> float:
        """Return once the queue has room for these conversations, or patience ends: how long they may wait inside.

        Nobody is told when there is room, so it is looked for again and again: those who wait have no order.
        """
        last_chance = waits_until if deadline is None else min(deadline, waits_until)
        if num_packed_tokens(conversations) > self._queue.max_queued_tokens:
            return self._queue.max_wait_seconds  # there will never be room, which `admit` says
        while True:
            now = self._queue.clock()
            left_seconds = last_chance - now
            patience_seconds = min(waits_until - now, self._queue.max_wait_seconds)
            if left_seconds <= 0 or self._queue.has_room(conversations, priority, patience_seconds):
                return patience_seconds
            self._queue.check_open()
            await asyncio.sleep(min(left_seconds, LONGEST_PAUSE_SECONDS) * (0.5 + random.random() / 2))  # noqa: S311

    async def _outcomes(self, jobs: Sequence[Job], deadline: float | None) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        timer = None
        if deadline is not None:
            timer = loop.call_later(deadline - self._queue.clock(), self._queue.expire, jobs)
        try:
            # One after the other: those of a pack are settled together, so only the first of them is waited for.
            return [await _outcome(job) for job in jobs]
        finally:
            if timer is not None:
                timer.cancel()
            self._queue.withdraw(jobs)  # where the caller has left, nobody wants the rest

    async def _tokenize(
        self, items: Sequence[Item], truncation: Truncation, encode: Encode
    ) -> list[TokenizedItem | ArmoserveError]:
        """Tokenise in the pool, a few items a call and one call per thread, so that requests take turns."""
        results: dict[int, list[TokenizedItem | ArmoserveError]] = {}
        encode = _sharing_prefixes(encode)
        starts = iter(range(0, len(items), ITEMS_PER_CALL))
        loop = asyncio.get_running_loop()

        async def work() -> None:
            for start in starts:
                self._queue.check_open()
                chunk = items[start : start + ITEMS_PER_CALL]
                results[start] = await loop.run_in_executor(self._pool, self._tokenize_chunk, chunk, truncation, encode)

        await asyncio.gather(*(work() for _ in range(self._tokenize_threads)))
        return [result for start in sorted(results) for result in results[start]]

    def _tokenize_chunk(
        self, items: Sequence[Item], truncation: Truncation, encode: Encode
    ) -> list[TokenizedItem | ArmoserveError]:
        return [self._tokenize_one(item, truncation, encode) for item in items]

    def _tokenize_one(self, item: Item, truncation: Truncation, encode: Encode) -> TokenizedItem | ArmoserveError:
        try:
            tokenized = encode(item, truncation)
            self._queue.check_size(tokenized.conversations)
        except RequestError as error:
            return error
        except Exception as error:
            # The message of a stray error may quote the text, so only its type and the way to it are logged.
            way = "".join(traceback.format_tb(error.__traceback__))
            logger.error("tokenisation failed: %s\n%s", type(error).__name__, way)  # noqa: TRY400
            return InferenceFailed("the item could not be tokenised")
        return tokenized


def _sharing_prefixes(encode: Encode) -> Encode:
    """Make equal prefixes of all that is encoded one object, whose hash is known: none is walked again to be found."""
    known: dict[Prefix, Prefix] = {}

    def shared(conversation: TokenizedConversation) -> TokenizedConversation:
        prefix = conversation.prefix
        return replace(conversation, known_prefix=known.setdefault(prefix, prefix))

    def encode_and_share(item: Item, truncation: Truncation) -> TokenizedItem:
        tokenized = encode(item, truncation)
        return replace(tokenized, conversations=tuple(map(shared, tokenized.conversations)))

    return encode_and_share


async def _outcome(job: Job) -> Outcome:
    """Wait for a job's result or its failure in the model; anything else is the request's own end."""
    try:
        return await job.future
    except InferenceFailed as failure:
        return failure


def _scored(
    tokenized: Sequence[TokenizedItem | ArmoserveError], outcomes: Sequence[Outcome], tokenize_seconds: float
) -> ScoredItems:
    remaining = iter(outcomes)
    results = [_result(one, remaining) if isinstance(one, TokenizedItem) else one for one in tokenized]
    failures = [result for result in results if isinstance(result, InferenceFailed)]
    if failures and len(failures) == len(results):
        raise failures[0]
    done = [outcome for outcome in outcomes if isinstance(outcome, JobResult)]
    conversations = [c for one in tokenized if isinstance(one, TokenizedItem) for c in one.conversations]
    usage = Usage(
        prompt_tokens=sum(len(conversation.prefix_ids) for conversation in conversations),
        response_tokens=sum(len(conversation.response_ids) for conversation in conversations),
        computed_tokens=sum(result.computed_tokens for result in done),
    )
    timings = Timings(
        tokenize_seconds=tokenize_seconds,
        queue_seconds=max((result.queue_seconds for result in done), default=0.0),
        forward_seconds=max((result.forward_seconds for result in done), default=0.0),
    )
    return ScoredItems(tuple(results), usage, timings)


def _result(item: TokenizedItem, outcomes: Iterator[Outcome]) -> ItemReadouts | InferenceFailed:
    """Gather the readouts of one item; one that failed fails the item, since its best response is unknown."""
    readouts = []
    failure = None
    for _ in item.conversations:
        outcome = next(outcomes)
        if isinstance(outcome, InferenceFailed):
            failure = outcome
        else:
            readouts.append(outcome.readout)
    return failure or ItemReadouts(
        readouts=tuple(readouts),
        prompt_tokens=len(item.conversations[0].prefix_ids),
        response_tokens=tuple(len(conversation.response_ids) for conversation in item.conversations),
        truncated=item.truncated,
    )
