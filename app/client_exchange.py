"""The client's side of an exchange as a generator: it says what to send and how long to pause, and is told what came.

No socket, no clock of its own, no thread and no event loop: the two clients perform its steps, each in its own way.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal, TypeAlias, TypeVar

from app.client_answers import Answer, judge
from app.client_outage import Outage
from app.client_requests import Call, WireItem, body_of, key_headers
from app.client_results import ItemError, Result, Usage
from app.errors import RequestRefused, RevisionChanged, ServiceUnreachable

Outcome = TypeVar("Outcome")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
"""A service that comes back is noticed within this."""
TRANSIENT = frozenset({408, 429, 502, 503, 504})
PROBLEM_JSON = "application/problem+json"
OnRevision: TypeAlias = Literal["raise", "ignore"]


@dataclass(frozen=True, slots=True)
class Send:
    """Send this and come back with a `Reply` or a `Lost`."""

    method: Literal["GET", "POST"]
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long, and come back with None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What the service, or something before it, answered; the names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing came: the connection could not be made, or broke; or patience ended."""

    reason: str


Step: TypeAlias = Send | Pause
Event: TypeAlias = Reply | Lost | None
Exchange: TypeAlias = Generator[Step, Event, Outcome]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request is tried again, counted from its first failure."""

    retry_seconds: float
    clock: Callable[[], float] = time.monotonic
    outage: Outage = field(default_factory=Outage)


@dataclass(slots=True)
class Record:
    """What a client has seen so far: tokens, and which model answered. Shared by threads."""

    on_revision: OnRevision = "ignore"
    expected_revision: str | None = None
    """The one revision whose scores are wanted, where that is known beforehand."""
    usage: Usage = field(default_factory=Usage)
    revision: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, answer: Answer) -> None:
        """Count an answer's tokens.

        Raises:
            RevisionChanged: another model gave it than the one expected, or than the first where none may follow it.
        """
        if answer.revision != (self.expected_revision or answer.revision):
            raise RevisionChanged(
                f"the service answered with revision {answer.revision}; expected is {self.expected_revision}"
            )
        with self._lock:
            first = self.revision = self.revision or answer.revision
            if self.on_revision == "raise" and answer.revision != first:
                raise RevisionChanged(
                    f"the service answered with revision {answer.revision}, and with {first} at first"
                )
            self.usage += answer.usage


def ask(items: Sequence[WireItem], call: Call, patience: Patience, record: Record) -> Exchange[list[Result]]:
    """Ask about the items of one request; those that are too much together are asked about in halves.

    Raises:
        RequestRefused, BadAnswer, RevisionChanged, ServiceUnreachable: as the client's methods say.
    """
    try:
        reply = yield from deliver(Send("POST", call.route, body_of(items, call.options), key_headers(items)), patience)
    except RequestRefused as refused:
        if refused.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(items) > 1:
            half = len(items) // 2
            first = yield from ask(items[:half], call, patience, record)
            return first + (yield from ask(items[half:], call, patience, record))
        if refused.type == "inference-failed":  # what the service answers where every item failed in the model
            return [ItemError(refused.type, refused.detail)] * len(items)
        raise
    answer = judge(reply.content, call, items)
    record.add(answer)
    return list(answer.results)


def deliver(request: Send, patience: Patience) -> Exchange[Reply]:
    """Send a request until the service takes it, with growing, jittered pauses between; a long wait is announced.

    Raises:
        RequestRefused: the service answered, and would answer the same again.
        ServiceUnreachable: patience ended.
    """
    asked_at = patience.clock()
    give_up_at = None
    attempt = 0
    while True:
        event = yield request
        if isinstance(event, Reply):
            if event.status == HTTPStatus.OK:
                patience.outage.ends(patience.clock())
                return event
            if not _is_transient(event):
                raise _refusal(event)
        now = patience.clock()
        give_up_at = now + patience.retry_seconds if give_up_at is None else give_up_at
        if now >= give_up_at:
            raise ServiceUnreachable(
                f"no answer to {request.path} for {patience.retry_seconds:g} seconds; at last: {_reason(event)}"
            )
        patience.outage.fails(asked_at, now, _reason(event), give_up_at - now)
        yield Pause(min(_pause_seconds(event, attempt), give_up_at - now))
        attempt += 1


def _is_transient(reply: Reply) -> bool:
    # 504 is a proxy's, unless it says that the deadline which we set has passed.
    is_our_deadline = reply.status == HTTPStatus.GATEWAY_TIMEOUT and _problem(reply).get("type") == "deadline-exceeded"
    return reply.status in TRANSIENT and not is_our_deadline


def _pause_seconds(event: Event, attempt: int) -> float:
    """Return a random part of the growing pause, on top of what the service asks for."""
    longest = min(FIRST_PAUSE_SECONDS * 2 ** min(attempt, 32), LONGEST_PAUSE_SECONDS)
    asked_for = _retry_after_seconds(event.headers.get("retry-after")) if isinstance(event, Reply) else 0.0
    return asked_for + random.uniform(0.0, longest)  # noqa: S311


def _retry_after_seconds(header: str | None) -> float:
    """Read seconds or a date; what is neither counts as not given."""
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


def _refusal(reply: Reply) -> RequestRefused:
    problem = _problem(reply)
    phrase = HTTPStatus(reply.status).phrase if reply.status in list(HTTPStatus) else "unknown status"
    return RequestRefused(
        reply.status, problem.get("type", "about:blank"), problem.get("title", phrase), problem.get("detail", "")
    )


def _problem(reply: Reply) -> dict[str, str]:
    """Return the service's own words; what something else answers may quote anything and is left out."""
    if not reply.headers.get("content-type", "").startswith(PROBLEM_JSON):
        return {}
    try:
        content = json.loads(reply.content)
    except ValueError:
        return {}
    return {name: str(value) for name, value in content.items()} if isinstance(content, dict) else {}


def _reason(event: Event) -> str:
    if isinstance(event, Reply):
        return f"status {event.status} {_problem(event).get('type', '')}".rstrip()
    return event.reason if event else "nothing"
