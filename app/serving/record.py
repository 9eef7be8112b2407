"""What one request asked of the service, and where its time went: log lines, headers and traces are read from it.

The service fills it in while the request is inside; a request of many calls adds them up. It knows no HTTP.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from app.domain import Timings

Stage = Literal["tokenize", "queue", "forward"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: its conversations as if nothing were shared, and what was computed for it.

    A prompt counts once per response in `prompt_tokens`; in `computed_tokens` a shared prefix counts once, for the
    first job of the pack that brought it, which may be another request's.
    """

    prompt_tokens: int
    response_tokens: int
    computed_tokens: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.response_tokens + other.response_tokens,
            self.computed_tokens + other.computed_tokens,
        )


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request, from its first byte to its answer."""

    request_id: str = ""
    items: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    stage_seconds: dict[Stage, float] = field(default_factory=dict)
    """How long each stage took at most, of those that are done."""
    problem: str = ""
    """The type of the problem that was answered, where one was."""

    def tokenized(self, items: int, seconds: float) -> None:
        self.items += items
        self._lasted({"tokenize": seconds})

    def scored(self, usage: Usage, timings: Timings) -> None:
        self.usage += usage
        self._lasted({"queue": timings.queue_seconds, "forward": timings.forward_seconds})

    def _lasted(self, seconds: Mapping[Stage, float]) -> None:
        for stage, lasted in seconds.items():
            self.stage_seconds[stage] = max(lasted, self.stage_seconds.get(stage, 0.0))


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def current_record() -> RequestRecord:
    """Return the record of the request that this task works for; outside of any, one that nobody reads."""
    return _current.get() or RequestRecord()


@contextmanager
def recording(record: RequestRecord) -> Iterator[None]:
    """Work for the request of this record: this task, and those it starts meanwhile."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)
