"""What waits, and what it becomes. A job is one response to score; it does not know which route asked for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from app.domain import Prefix, Readout, TokenizedConversation
from app.serving.record import RequestRecord

Priority = Literal["interactive", "bulk"]


class JobResult(NamedTuple):
    """The readout of one job, and what it cost."""

    readout: Readout
    computed_tokens: int
    """Its response, and its prefix where it was the first in its pack to bring it."""
    queue_seconds: float
    forward_seconds: float


@dataclass(slots=True, eq=False)  # not frozen: thousands are made at once, on the event loop, and frozen ones take 4x
class Job:
    """One response that waits for its forward pass; `deadline` and `enqueued_at` are monotonic seconds."""

    conversation: TokenizedConversation
    future: asyncio.Future[JobResult]
    priority: Priority
    deadline: float | None
    enqueued_at: float
    record: RequestRecord = field(default_factory=RequestRecord)
    """Of the request that it belongs to."""

    @property
    def caller(self) -> str:
        return self.record.caller

    @property
    def prefix(self) -> Prefix:
        return self.conversation.prefix

    @property
    def num_prefix_tokens(self) -> int:
        return len(self.conversation.prefix_ids)

    @property
    def num_response_tokens(self) -> int:
        return len(self.conversation.response_ids)

    def fail(self, error: Exception) -> bool:
        """Hand `error` to the caller, unless the job is settled or its caller is gone; say whether it was handed."""
        if self.future.done():
            return False
        self.future.set_exception(error)
        return True

    def resolve(self, result: JobResult) -> None:
        """Hand `result` to the caller, unless the caller is gone."""
        if not self.future.done():
            self.future.set_result(result)

    def abandon(self) -> None:
        """Want no outcome any more; an error that nobody asked for is then no reason for asyncio to complain."""
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()


def num_packed_tokens(conversations: Sequence[TokenizedConversation]) -> int:
    """Count the tokens of one pack of them all, each prefix once."""
    prefixes = {conversation.prefix for conversation in conversations}
    num_response_tokens = sum([len(conversation.response_ids) for conversation in conversations])
    return num_response_tokens + sum([len(prefix) for prefix in prefixes])
