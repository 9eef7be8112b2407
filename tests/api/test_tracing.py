"""Traces: their tree, the packs that requests share, their caller's context, and that nothing depends on them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from app.api import request_report
from app.api.logs import JsonFormatter
from app.serving.record import MOST_STAGES, PackRun, RequestRecord
from tests.api.fake_engine import FAIL, HOLD, FakeEngine
from tests.api.serving import Served, serving, wait_until

PROMPT, RESPONSE = "Say xyzzy", "aei? plugh"
GOOD = {"prompt": PROMPT, "response": RESPONSE}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=1"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-00"}


@contextmanager
def traced(monkeypatch: pytest.MonkeyPatch, exporter: SpanExporter, fake: FakeEngine | None = None) -> Iterator[Served]:
    monkeypatch.setattr("app.api.tracing.OTLPSpanExporter", lambda endpoint: exporter)
    with serving(fake, otlp_endpoint="http://127.0.0.1:4318") as served:
        yield served


def spans_of(served: Served, exporter: InMemorySpanExporter, requests: int = 1) -> dict[str, list[ReadableSpan]]:
    """Return the spans by name, once as many requests have ended theirs."""

    def ended() -> list[ReadableSpan]:
        assert served.state.tracing is not None
        served.state.tracing._provider.force_flush()
        return [span for span in exporter.get_finished_spans() if span.kind is SpanKind.SERVER]

    wait_until(lambda: len(ended()) >= requests)
    by_name: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        by_name.setdefault(span.name, []).append(span)
    return by_name


def ids(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def test_a_request_is_a_tree_in_its_callers_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    with traced(monkeypatch, exporter) as served:
        body = {"items": [{"prompt": PROMPT, "responses": [RESPONSE, "b"]}]}
        answer = served.post("/score", body, headers=SAMPLED | {"X-Request-Id": "run-7"}).json()
        spans = spans_of(served, exporter)
    assert {name: len(found) for name, found in spans.items()} == {
        "POST /score": 1,
        "tokenize": 1,
        "queue": 1,
        "forward": 1,
    }
    request, tokenize, queue, forward = (spans[name][0] for name in ("POST /score", "tokenize", "queue", "forward"))
    assert request.parent is not None
    assert (request.parent.span_id, request.parent.is_remote) == (int(CALLER, 16), True)
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/score",
        "http.response.status_code": 200,
        "armoserve.request_id": "run-7",
        "armoserve.items": 1,
        **{f"armoserve.{name}": number for name, number in answer["usage"].items()},
        "armoserve.pack_id": (1,),
    }
    for child in (tokenize, queue, forward):
        assert child.parent is not None
        assert child.parent.span_id == request.context.span_id
        assert child.context.trace_id == int(TRACE, 16)
        assert child.context.trace_state.to_header() == "vendor=1"
    assert dict(queue.attributes or {}) == {"armoserve.pack_id": 1}
    assert dict(forward.attributes or {}) == {
        "armoserve.pack_id": 1,
        "armoserve.pack_tokens": answer["usage"]["computed_tokens"],
        "armoserve.pack_responses": 2,
    }
    assert linked(forward) == [ids(request)]
    lasted = (forward.end_time or 0) - (forward.start_time or 0)
    assert lasted >= answer["timings_ms"]["forward"] * 1e6 - 1e3
    resource = request.resource.attributes
    assert resource["service.name"] == "armoserve"
    assert resource["service.instance.id"]


def test_the_forward_pass_of_a_pack_links_to_all_its_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, fake = InMemorySpanExporter(), FakeEngine()
    with traced(monkeypatch, exporter, fake) as served, ThreadPoolExecutor() as pool:
        held = pool.submit(served.post, "/score", GOOD | {"response": HOLD})
        assert fake.holding.wait(20)
        posts = [("/score", GOOD), ("/objectives", GOOD | {"prompt": "other"}), ("/score", GOOD | {"response": "c"})]
        waiting = [pool.submit(served.post, path, body) for path, body in posts]
        unsampled = pool.submit(served.post, "/score", GOOD | {"response": "d"}, headers=NOT_SAMPLED)
        wait_until(lambda: served.metric("armoserve_tokenize_seconds_count") == 5)
        wait_until(
            lambda: served.state.model is not None and len(served.state.model.service._queue._lines["interactive"]) == 4
        )
        fake.release.set()
        assert {one.result().status_code for one in (held, *waiting, unsampled)} == {200}
        spans = spans_of(served, exporter, requests=4)
    requests = [
        span
        for span in (*spans["POST /score"], *spans["POST /objectives"])
        if span.attributes["armoserve.pack_id"] == (2,)
    ]
    assert len(requests) == 3
    forwards = [span for span in spans["forward"] if span.attributes["armoserve.pack_id"] == 2]
    assert len(forwards) == 3
    (of_the_pack,) = [span for span in forwards if len(span.links) > 1]
    assert sorted(linked(of_the_pack)) == sorted(map(ids, requests))
    assert of_the_pack.attributes["armoserve.pack_responses"] == 4
    for other in forwards:
        if other is not of_the_pack:
            assert linked(other) == [ids(of_the_pack)]
    assert sorted(span.parent.span_id for span in forwards) == sorted(span.context.span_id for span in requests)


def test_a_failure_is_told_of_by_its_kind_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    with traced(monkeypatch, exporter) as served:
        assert served.post("/score", GOOD | {"response": FAIL}).status_code == 500
        assert served.post("/score", GOOD | {"response": 7}).status_code == 422
        spans = spans_of(served, exporter, requests=2)
    failed, refused = sorted(spans["POST /score"], key=lambda span: span.status.is_ok)
    assert not failed.status.is_ok
    assert failed.attributes["error.type"] == "inference-failed"
    (forward,) = spans["forward"]
    assert not forward.status.is_ok
    assert forward.attributes["error.type"] == "other"
    assert refused.status.is_unset, "a caller's fault is no error of ours"
    assert refused.attributes["http.response.status_code"] == 422
    assert not any(span.events or span.status.description for found in spans.values() for span in found)


def test_no_span_holds_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    with traced(monkeypatch, exporter) as served:
        for body in (GOOD, GOOD | {"response": 7}, GOOD | {"preferences": [{"xyzzy": 1}]}, GOOD | {"response": FAIL}):
            served.post("/score", body)
        served.client.get("/xyzzy/plugh?plugh=xyzzy")
        spans = spans_of(served, exporter, requests=5)
    assert "GET" in spans
    written = "\n".join(span.to_json() for found in spans.values() for span in found)
    assert "xyzzy" not in written
    assert "plugh" not in written


def test_the_caller_decides_whether_its_request_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    with traced(monkeypatch, exporter) as served:
        assert served.post("/score", GOOD, headers=NOT_SAMPLED).status_code == 200
        assert served.post("/score", GOOD, headers={"traceparent": "00-zz-1-xyzzy"}).status_code == 200
        spans = spans_of(served, exporter)
    assert [span.parent for span in spans["POST /score"]] == [None], "what is malformed is no context"


def test_probes_are_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = InMemorySpanExporter()
    with traced(monkeypatch, exporter) as served:
        for path in ("/livez", "/readyz", "/metrics", "/info"):
            served.client.get(path, headers=SAMPLED)
        assert set(spans_of(served, exporter)) == {"GET /info"}


def test_log_lines_name_their_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(request_report.log, "isEnabledFor", lambda _: True)
    monkeypatch.setattr(
        request_report.log, "handle", lambda record: lines.append(json.loads(JsonFormatter().format(record)))
    )
    exporter = InMemorySpanExporter()
    with traced(monkeypatch, exporter) as served:
        served.post("/score", GOOD, headers=SAMPLED)
        (request,) = spans_of(served, exporter)["POST /score"]
    assert lines[0]["trace_id"] == TRACE
    assert lines[0]["span_id"] == f"{request.context.span_id:016x}"


class BrokenExporter(SpanExporter):
    """What a collector's client may do at worst."""

    def export(self, spans: object) -> SpanExportResult:
        raise RuntimeError("no collector")


def test_requests_do_not_notice_an_exporter_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    with traced(monkeypatch, BrokenExporter()) as served:
        assert [served.post("/score", GOOD).status_code for _ in range(20)] == [200] * 20


def test_requests_do_not_notice_spans_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with traced(monkeypatch, InMemorySpanExporter()) as served:
        assert served.state.tracing is not None
        for broken in ("_begin", "_child", "_end"):
            with monkeypatch.context() as patch:
                patch.setattr(served.state.tracing, broken, None)
                assert served.post("/score", GOOD).status_code == 200


def test_a_request_of_many_packs_is_remembered_in_part() -> None:
    record = RequestRecord(span=object())
    for pack in range(1000):
        record.computed(0.0, PackRun(pack, 1.0, 2.0, 3, 4), None)
    assert len(record.stages) == MOST_STAGES
    untraced = RequestRecord()
    untraced.computed(0.0, PackRun(1, 1.0, 2.0, 3, 4), None)
    assert untraced.stages == []


def test_without_a_collector_nothing_of_it_is_loaded() -> None:
    program = "import app.main, app.api.server, sys; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_collector_without_the_extra_stops_the_start_with_one_line() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from app.__main__ import main\n"
        "sys.exit(main(['serve', '--port', '0', '--otlp-endpoint', 'http://127.0.0.1:4318']))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        "armoserve: otlp_endpoint = 'http://127.0.0.1:4318' is not allowed: OpenTelemetry is not installed; "
        "allowed: once the extra is, with pip install 'armoserve[otel]'\n"
    )
