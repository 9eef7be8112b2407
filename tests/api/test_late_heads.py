"""Callers who connect and then say nothing, or stop in the middle of their headers: by hand on raw sockets."""

import json
from collections.abc import Iterator

import pytest

from app.api.http_protocol import BoundedProtocol
from tests.api.fake_engine import HOLD
from tests.api.serving import PATIENCE_SECONDS, Served, serving, wait_until

HALF = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half"
WHOLE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
GOOD = json.dumps({"prompt": "Say something", "response": "b"}).encode()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(BoundedProtocol, "head_seconds", 0.5)
    with serving() as running:
        yield running


def answers_to(served: Served, *pieces: bytes) -> bytes:
    """Return all that comes until the server closes; each piece is sent once something has come back."""
    received = b""
    with served.connection() as connection:
        for piece in pieces:
            connection.sendall(piece)
            if piece is not pieces[-1]:
                received += connection.recv(65536)
        return received + b"".join(iter(lambda: connection.recv(65536), b""))


def test_who_says_nothing_is_left(impatient: Served) -> None:
    assert answers_to(impatient) == b""


@pytest.mark.parametrize("half", [HALF, HALF[:1]])
@pytest.mark.parametrize("before", [(), (WHOLE,)])
def test_a_head_that_stops_is_told_so(impatient: Served, half: bytes, before: tuple[bytes, ...]) -> None:
    *_, last = answers_to(impatient, *before, half).split(b"HTTP/1.1 ")
    head, _, body = last.partition(b"\r\n\r\n")
    assert head.startswith(b"408 Request Timeout\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem = json.loads(body)
    assert (problem["status"], problem["title"]) == (408, "Request Timeout")
    assert f"x-request-id: {problem['request_id']}".encode() in head


@pytest.mark.parametrize("rest", [b"", HALF[1:2]])
def test_a_head_that_begins_before_the_last_answer_has_its_time_from_that_on(impatient: Served, rest: bytes) -> None:
    held = json.dumps({"prompt": "Say something", "response": HOLD}).encode()
    with impatient.connection() as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(held) + held)
        assert impatient.fake.holding.wait(PATIENCE_SECONDS)
        connection.sendall(HALF[:1])
        wait_until(lambda: any(getattr(one, "head_bytes", 0) for one in impatient.server.server_state.connections))
        impatient.fake.release.set()
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        connection.sendall(rest)
        assert b"HTTP/1.1 408 Request Timeout\r\n" in b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_slow_body_is_no_late_head(impatient: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impatient.server.config.http_protocol_class, "head_seconds", 0.05)
    with impatient.connection() as connection:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        connection.sendall(b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(GOOD))
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        impatient.fake.release.wait(0.3)
        connection.sendall(GOOD)
        assert b"HTTP/1.1 200 OK" in b"".join(iter(lambda: connection.recv(65536), b""))
