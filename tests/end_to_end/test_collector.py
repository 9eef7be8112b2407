"""Traces read back from a process that takes OTLP over HTTP as a collector does, and what happens without one."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.fake_engine import FAIL, HOLD
from tests.end_to_end.processes import ServerProcess, queued_tokens, server_process, wait_until

FAKE, RECEIVER = "tests.end_to_end.serve_fake", "tests.end_to_end.otlp_receiver"
GOOD = {"prompt": "Say xyzzy", "response": "plugh"}
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FLAGS = ["--drain-delay-seconds", "0", "--otlp-endpoint"]


@pytest.fixture
def spans_file(tmp_path: Path) -> Path:
    path = tmp_path / "spans.jsonl"
    path.touch()
    return path


def post(server: ServerProcess, body: dict[str, str], **headers: str) -> httpx.Response:
    return httpx.post(server.url + "/score", json=body, headers=headers, timeout=60)


def spans_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def has_begun(server: ServerProcess) -> bool:
    """Say whether a first request has left the queue for the engine."""
    metrics = httpx.get(server.url + "/metrics", timeout=60).text
    return "armoserve_tokenize_seconds_count 1.0" in metrics and queued_tokens(server) == 0


def test_a_collector_gets_whole_traces(tmp_path: Path, spans_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with (
        server_process(RECEIVER, [str(spans_file)], tmp_path / "receiver.log") as receiver,
        server_process(FAKE, [*FLAGS, receiver.url], tmp_path / "log") as server,
    ):
        server.wait_ready()
        assert post(server, GOOD, traceparent=f"00-{TRACE}-{CALLER}-01", tracestate="vendor=1").status_code == 200
        assert post(server, GOOD | {"response": FAIL}).status_code == 500
        wait_until(lambda: len(spans_in(spans_file)) == 8)
    spans = spans_in(spans_file)
    mine = {span["name"]: span for span in spans if span["trace_id"] == TRACE}
    assert set(mine) == {"POST /score", "tokenize", "queue", "forward"}
    request = mine.pop("POST /score")
    assert request["parent"] == CALLER
    assert {span["parent"] for span in mine.values()} == {request["span_id"]}
    assert request["attributes"]["armoserve.pack_id"] == [mine["forward"]["attributes"]["armoserve.pack_id"]]
    assert mine["forward"]["links"] == [[TRACE, request["span_id"]]]
    assert {span["trace_state"] for span in [request, *mine.values()]} == {"vendor=1"}
    assert 0 <= mine["tokenize"]["seconds"] <= request["seconds"]
    failed = {span["name"] for span in spans if span["status"] == 2}
    assert failed == {"POST /score", "forward"}
    assert {span["resource"]["service.name"] for span in spans} == {"armoserve"}
    assert {span["resource"]["deployment.environment.name"] for span in spans} == {"test"}
    assert "xyzzy" not in spans_file.read_text()
    assert "plugh" not in spans_file.read_text()


def test_requests_of_one_pack_find_each_other(tmp_path: Path, spans_file: Path) -> None:
    with (
        server_process(RECEIVER, [str(spans_file)], tmp_path / "receiver.log") as receiver,
        server_process(FAKE, [*FLAGS, receiver.url], tmp_path / "log") as server,
        ThreadPoolExecutor() as pool,
    ):
        server.wait_ready()
        held = pool.submit(post, server, GOOD | {"response": HOLD})
        wait_until(lambda: has_begun(server))
        waiting = [pool.submit(post, server, GOOD | {"prompt": f"prompt {number}"}) for number in range(3)]
        assert {one.result().status_code for one in (held, *waiting)} == {200}
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0, "what is left is sent before the end"
    forwards = [span for span in spans_in(spans_file) if span["name"] == "forward"]
    requests = {span["span_id"]: span for span in spans_in(spans_file) if span["name"] == "POST /score"}
    assert len(requests) == 4
    assert {span["parent"] for span in forwards} == set(requests)
    for forward in forwards:
        pack = forward["attributes"]["armoserve.pack_id"]
        company = {one for one, span in requests.items() if pack in span["attributes"]["armoserve.pack_id"]}
        linked = {span_id for _, span_id in forward["links"]}
        of_the_pack = {one["span_id"] for one in forwards if one["attributes"]["armoserve.pack_id"] == pack}
        assert linked == company or len(linked & of_the_pack) == 1
        if linked == company:
            assert len(company) == forward["attributes"]["armoserve.pack_responses"]
    packs = [span["attributes"]["armoserve.pack_id"] for span in forwards]
    assert len(set(packs)) < len(packs), "some shared a pack"


def test_without_a_collector_everything_is_answered_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    log = tmp_path / "log"
    with server_process(FAKE, [*FLAGS, nobody], log) as server:
        server.wait_ready()
        assert [post(server, GOOD).status_code for _ in range(10)] == [200] * 10
        wait_until(lambda: "opentelemetry.exporter" in log.read_text())
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0
    assert "xyzzy" not in log.read_text()
    assert "plugh" not in log.read_text()
