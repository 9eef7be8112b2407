"""Traces through OpenTelemetry, where `otlp_endpoint` asks for them: the one module that knows it.

A request's span has the children `tokenize`, `queue` and `forward`. The `forward` of a pack is in the trace of its
oldest traced request and links to the spans of all of them; the others have a `forward` of their own that links to it.
Spans hold numbers and names of ours, no text. They are sent by a thread that drops what a collector does not take.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final
from uuid import uuid4

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app import __version__
from app.api.background import in_daemon_thread
from app.api.request_report import Answered
from app.serving.record import PackRun, RequestRecord, StageRun

TRACES_PATH = "/v1/traces"
LAST_SPANS_SECONDS = 5.0
"""For what is left to be sent at the end; a collector that is gone does not hold the process up for longer."""
CONTEXT_HEADERS: Final = (b"traceparent", b"tracestate")

log = logging.getLogger(__name__)

Attributes = dict[str, str | int | Sequence[int]]


class Tracing:
    """Traces of one process, sampled as their callers' are; standard `OTEL_` variables say how others are sampled."""

    def __init__(self, endpoint: str) -> None:
        own = Resource(
            {"service.name": "armoserve", "service.version": __version__, "service.instance.id": uuid4().hex}
        )
        self._provider = TracerProvider(
            resource=Resource.create().merge(own).merge(OTELResourceDetector().detect()),
            span_limits=SpanLimits(max_links=SpanLimits.UNSET),  # all requests of a pack
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + TRACES_PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("armoserve", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, record: RequestRecord, method: str, route: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin the trace of a request, or go on with its caller's (W3C Trace Context)."""
        with _never_the_requests_fault():
            self._begin(record, method, route, headers)

    def end(self, answered: Answered) -> None:
        """End the trace of a request, with a child per stage that it went through."""
        with _never_the_requests_fault():
            self._end(answered)

    def pack(self, run: PackRun, spans: Sequence[object]) -> object:
        """Trace a pack for the requests with these spans, in the trace of the first; return its ended span."""
        with _never_the_requests_fault():
            requests = [span for span in spans if isinstance(span, Span)]
            links = [Link(span.get_span_context()) for span in requests]
            return self._child(requests[0], StageRun("forward", run.began_at, run.ended_at, run), links)
        return None

    async def close(self) -> None:
        """Send what is left, if somebody takes it in time."""
        with suppress(TimeoutError):
            await asyncio.wait_for(in_daemon_thread(self._provider.shutdown), LAST_SPANS_SECONDS)

    def _begin(self, record: RequestRecord, method: str, route: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        given = {name.decode(): value.decode("latin-1") for name, value in headers if name in CONTEXT_HEADERS}
        is_ours = route != "other"
        attributes: Attributes = {"http.request.method": method, "armoserve.request_id": record.request_id}
        span = self._tracer.start_span(
            f"{method} {route}" if is_ours else method,
            self._propagator.extract(given),
            SpanKind.SERVER,
            attributes | ({"http.route": route} if is_ours else {}),
        )
        context = span.get_span_context()
        record.trace_id, record.span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        if span.is_recording():
            record.span = span

    def _end(self, answered: Answered) -> None:
        span = answered.record.span
        if not isinstance(span, Span):
            return
        for run in answered.record.stages:
            self._stage(span, run)
        span.set_attributes(_answer_attributes(answered))
        if answered.status >= 500:
            _failed(span, answered.record.problem or str(answered.status))
        span.end()

    def _stage(self, request: Span, run: StageRun) -> None:
        self._child(request, run, [Link(run.span.get_span_context())] if isinstance(run.span, Span) else [])

    def _child(self, request: Span, run: StageRun, links: Sequence[Link]) -> Span:
        span = self._tracer.start_span(
            run.stage,
            set_span_in_context(request),
            attributes=_pack_attributes(run),
            links=links,
            start_time=_wall_ns(run.began_at),
        )
        if run.stage == "forward" and run.pack is not None and run.pack.failure:
            _failed(span, run.pack.failure)
        span.end(_wall_ns(run.ended_at))
        return span


@contextmanager
def _never_the_requests_fault() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a sampler from outside, say: a trace is lost, and nothing else
        log.error("a span could not be made: %s", type(error).__name__)  # noqa: TRY400


def _answer_attributes(answered: Answered) -> Attributes:
    record = answered.record
    attributes: Attributes = {"http.response.status_code": answered.status}
    if record.items:
        attributes |= {
            "armoserve.items": record.items,
            "armoserve.prompt_tokens": record.usage.prompt_tokens,
            "armoserve.response_tokens": record.usage.response_tokens,
            "armoserve.computed_tokens": record.usage.computed_tokens,
        }
    packs = [run.pack.pack_id for run in record.stages if run.stage == "queue" and run.pack is not None]
    return attributes | ({"armoserve.pack_id": packs} if packs else {})


def _pack_attributes(run: StageRun) -> Attributes:
    if run.pack is None:
        return {}
    attributes: Attributes = {"armoserve.pack_id": run.pack.pack_id}
    if run.stage == "forward":
        attributes |= {
            "armoserve.pack_tokens": run.pack.num_tokens,
            "armoserve.pack_responses": run.pack.num_responses,
        }
    return attributes


def _failed(span: Span, kind: str) -> None:
    """Mark a span as failed, by the kind of failure alone: its words may quote a caller's text."""
    span.set_status(Status(StatusCode.ERROR))
    span.set_attribute("error.type", kind)


def _wall_ns(at: float) -> int:
    """Return a moment of the monotonic clock in nanoseconds of the calendar's."""
    return time.time_ns() - round((time.monotonic() - at) * 1e9)
