"""What one request asked of the service, and where its time went: log lines, headers and traces are read from it.

The service and the batcher fill it in while the request is inside; a request of many calls adds them up. It knows no
HTTP, and of traces only whether one is wanted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from app.domain import Timings

Stage = Literal["tokenize", "queue", "forward"]

MOST_STAGES = 256
"""Of one request that are remembered for its trace: a stream of items goes through as many as it likes."""


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


@dataclass(frozen=True, slots=True)
class PackRun:
    """One forward pass, as the requests in it see it."""

    pack_id: int
    began_at: float
    ended_at: float
    num_tokens: int
    num_responses: int
    failure: str = ""
    """What kind of failure it ended in, where it did."""


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage of one request, in monotonic seconds; `span` is the forward span of the pack, of another's trace."""

    stage: Stage
    began_at: float
    ended_at: float
    pack: PackRun | None = None
    span: object | None = None


TracePack: TypeAlias = Callable[[PackRun, Sequence[object]], object]
"""Trace a pack for the requests with these spans, oldest first, in the trace of the first; return its own span."""


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request, from its first byte to its answer."""

    request_id: str = ""
    caller: str = ""
    """Who asks: those who wait take turns by it. The digest of a key where the service has keys, else an address."""
    items: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    stage_seconds: dict[Stage, float] = field(default_factory=dict)
    """How long each stage took at most, of those that are done."""
    revision: str = ""
    """Of the model that it was given to; empty where it never got that far."""
    problem: str = ""
    """The type of the problem that was answered, where one was."""
    trace_id: str = ""
    span_id: str = ""
    span: object | None = None
    """The span of a request that is traced; whoever traces knows what it is."""
    stages: list[StageRun] = field(default_factory=list)
    """For its trace, of a request that has one."""

    def tokenized(self, items: int, began_at: float, ended_at: float) -> None:
        self.items += items
        self._lasted({"tokenize": ended_at - began_at})
        self._passed(StageRun("tokenize", began_at, ended_at))

    def computed(self, enqueued_at: float, pack: PackRun, span: object | None) -> None:
        """Remember a pack with jobs of this request; `span` is None where the pack's span is in its own trace."""
        self._passed(StageRun("queue", enqueued_at, pack.began_at, pack))
        if span is not None:
            self._passed(StageRun("forward", pack.began_at, pack.ended_at, pack, span))

    def scored(self, usage: Usage, timings: Timings) -> None:
        self.usage += usage
        self._lasted({"queue": timings.queue_seconds, "forward": timings.forward_seconds})

    def _passed(self, run: StageRun) -> None:
        if self.span is not None and len(self.stages) < MOST_STAGES:
            self.stages.append(run)

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
