"""What is told of a request once it is answered: its log line, its Server-Timing header; and no text in either."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.api import request_report
from app.api.logs import JsonFormatter, TextFormatter
from app.api.problems import problem_response
from app.api.request_context import RequestContext
from tests.api.fake_engine import FAIL, HOLD, FakeEngine
from tests.api.serving import Served, serving, wait_until

PROMPT, RESPONSE = "Say xyzzy", "aei? plugh"
GOOD = {"prompt": PROMPT, "response": RESPONSE}
POLICY_TEXT = {"query": ["<user>Say xyzzy<assistant>plugh"], "prompts": ["<user>Say xyzzy<assistant>"]}
TIMING = re.compile(r"([a-z]+);dur=(\d+\.\d{3})")


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[logging.LogRecord]:
    """Every line about a request, as it is written."""
    written: list[logging.LogRecord] = []
    monkeypatch.setattr(request_report.log, "isEnabledFor", lambda _: True)
    monkeypatch.setattr(request_report.log, "handle", written.append)
    return written


def fields_of(lines: list[logging.LogRecord], route: str) -> dict[str, object]:
    """Return the fields of the last request to a route; it is told of once its answer is out."""

    def found() -> list[logging.LogRecord]:
        return [line for line in lines if line.fields["route"] == route]  # type: ignore[attr-defined]

    wait_until(lambda: bool(found()))
    fields: dict[str, object] = found()[-1].fields  # type: ignore[attr-defined]
    return fields


def timings_of(header: str) -> dict[str, float]:
    parts = [TIMING.fullmatch(part) for part in header.split(", ")]
    return {part[1]: float(part[2]) for part in parts if part}


def test_a_request_is_one_line(served: Served, lines: list[logging.LogRecord]) -> None:
    answer = served.post("/score", GOOD).json()
    fields = fields_of(lines, "/score")
    assert (fields["method"], fields["status"], fields["items"]) == ("POST", 200, 1)
    assert {name: fields[name] for name in answer["usage"]} == answer["usage"]
    for stage, milliseconds in answer["timings_ms"].items():
        assert fields[f"{stage}_seconds"] == pytest.approx(milliseconds / 1000, abs=1e-6)
    assert isinstance(fields["seconds"], float)
    assert fields["seconds"] >= fields["forward_seconds"]  # type: ignore[operator]
    assert "problem" not in fields
    assert len(lines) == 1


def test_it_says_what_was_wrong_and_where_nothing_was_scored(served: Served, lines: list[logging.LogRecord]) -> None:
    served.post("/objectives", {"prompt": PROMPT, "response": 7})
    fields = fields_of(lines, "/objectives")
    assert (fields["status"], fields["problem"]) == (422, "malformed-body")
    assert set(fields) == {"method", "route", "status", "seconds", "problem"}


def test_a_path_that_a_caller_made_up_is_not_repeated(served: Served, lines: list[logging.LogRecord]) -> None:
    served.client.get("/xyzzy/plugh?xyzzy=plugh")
    fields = fields_of(lines, "other")
    assert (fields["status"], fields["problem"]) == (404, "about:blank")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_what_machines_ask_for_every_few_seconds_is_quiet(
    served: Served, lines: list[logging.LogRecord], path: str
) -> None:
    served.client.get(path)
    fields_of(lines, path)
    assert {line.levelno for line in lines} == {logging.DEBUG}


def test_a_caller_that_left_is_told_of(lines: list[logging.LogRecord]) -> None:
    fake = FakeEngine()
    with serving(fake) as held, held.connection() as connection:
        body = json.dumps(GOOD | {"response": HOLD}).encode()
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert fake.holding.wait(20)
        connection.close()
        assert fields_of(lines, "/score")["status"] == 499


def test_no_line_holds_any_text(served: Served, lines: list[logging.LogRecord]) -> None:
    for path, body in (
        ("/score", GOOD),
        ("/score", GOOD | {"response": 7}),
        ("/moslim-classify", GOOD | {"targets": {"xyzzy": 1}}),
        ("/get_reward", POLICY_TEXT),
        ("/get_reward?preference=xyzzy:1", POLICY_TEXT),
    ):
        served.post(path, body)
    served.client.get("/score/xyzzy")
    fields_of(lines, "other")
    assert len(lines) == 6
    written = "\n".join(formatter.format(line) for line in lines for formatter in (JsonFormatter(), TextFormatter()))
    assert "xyzzy" not in written
    assert "plugh" not in written


@pytest.mark.parametrize("path", ["/score", "/objectives", "/moslim-classify"])
def test_the_header_says_what_the_answer_says(served: Served, path: str) -> None:
    response = served.post(path, GOOD)
    timings = timings_of(response.headers["server-timing"])
    assert list(timings) == ["tokenize", "queue", "forward", "total"]
    for stage, milliseconds in response.json()["timings_ms"].items():
        assert timings[stage] == pytest.approx(milliseconds, abs=6e-4)
    assert timings["total"] >= timings["forward"]


def test_trainers_get_it_too(served: Served) -> None:
    body = {"prompt": [{"role": "user", "content": PROMPT}], "response": RESPONSE}
    response = served.post("/get_reward", body)
    assert response.status_code == 200, response.text
    assert list(timings_of(response.headers["server-timing"])) == ["tokenize", "queue", "forward", "total"]
    nothing = served.post("/get_reward", {"query": []})
    assert list(timings_of(nothing.headers["server-timing"])) == ["total"]


def test_stages_that_were_not_done_are_left_out(served: Served) -> None:
    unread = served.post("/score", {})
    assert list(timings_of(unread.headers["server-timing"])) == ["total"]
    failed = served.post("/score", GOOD | {"response": FAIL})
    assert failed.status_code == 500
    assert list(timings_of(failed.headers["server-timing"])) == ["tokenize", "total"]


def headers_of(answer: Response) -> dict[bytes, bytes]:
    """Return what goes out where the routes answer so."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(scope, receive, send)

    async def receive() -> Message:
        await asyncio.Event().wait()  # a caller that stays
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    layer = RequestContext(app, frozenset(), lambda *_: None, problem_response)
    asyncio.run(layer({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send))
    return dict(sent[0]["headers"])


def test_of_a_stream_nothing_is_known_when_it_begins() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    assert b"server-timing" in headers_of(Response(b"x"))
    assert b"server-timing" not in headers_of(StreamingResponse(parts()))
