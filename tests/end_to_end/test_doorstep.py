"""SIGTERM with callers on the doorstep: whoever has connected gets an answer, however little of a request has come."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.api.test_get_reward import PROMPT, QUERY
from tests.end_to_end.processes import PATIENCE_SECONDS, ServerProcess, server_process, wait_until

NUM_EACH = 40
NUM_IN_BACKLOG = 500
BODY = json.dumps({"query": [QUERY[0]], "prompts": [PROMPT], "labels": [None]}).encode()
REQUEST = b"POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
HALVES = {"nothing": 0, "a byte": 1, "half a head": 30, "a head": len(REQUEST) - len(BODY), "half a body": -9}
NOW = ["--drain-delay-seconds", "0", "--log-format", "text"]


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0), timeout=PATIENCE_SECONDS)


def answer_on(caller: socket.socket) -> bytes:
    """Return all that comes until the server closes, which must not be by a reset."""
    with caller:
        return b"".join(iter(lambda: caller.recv(65536), b""))


def status_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n")[0]


def port_is_closed(server: ServerProcess) -> bool:
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False


@contextmanager
def held_still(server: ServerProcess) -> Iterator[None]:
    """Let the kernel alone answer for the process."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_what_has_begun_to_come_is_answered(tmp_path: Path) -> None:
    with server_process("tests.end_to_end.serve_fake", NOW, tmp_path / "log") as server:
        server.wait_ready()
        callers = [(connect(server), at) for at in HALVES.values() for _ in range(NUM_EACH)]
        for caller, at in callers:
            caller.sendall(REQUEST[:at])
        assert server.status("/livez") == 200, "it has read them all"
        with held_still(server):
            server.process.send_signal(signal.SIGTERM)
            for caller, at in callers[::2]:
                caller.sendall(REQUEST[at:])
        wait_until(lambda: port_is_closed(server))
        for caller, at in callers[1::2]:
            if at:
                caller.sendall(REQUEST[at:])
        answers = [(answer_on(caller), at) for caller, at in callers]
        assert server.exit_code() == 0
    # Of a caller from whom nothing comes it cannot be known whether anything would.
    assert {status_of(answer) for answer, _ in answers[::2]} == {b"HTTP/1.1 200 OK"}
    assert {status_of(answer) for answer, at in answers[1::2] if at} == {b"HTTP/1.1 200 OK"}
    assert {answer for answer, at in answers[1::2] if not at} == {b""}


def test_whoever_the_kernel_has_let_in_is_answered(tmp_path: Path) -> None:
    with server_process("tests.end_to_end.serve_fake", NOW, tmp_path / "log") as server:
        server.wait_ready()
        with held_still(server):
            callers = [connect(server) for _ in range(NUM_IN_BACKLOG)]
            for caller in callers:
                caller.sendall(REQUEST)
            server.process.send_signal(signal.SIGTERM)
        answers = [answer_on(caller) for caller in callers]
        assert server.exit_code() == 0
    assert {status_of(answer) for answer in answers} == {b"HTTP/1.1 200 OK"}


def test_a_head_that_does_not_come_in_time_is_told_so(tmp_path: Path) -> None:
    flags = [*NOW, "--drain-timeout-seconds", "0.5"]
    with server_process("tests.end_to_end.serve_fake", flags, tmp_path / "log") as server:
        server.wait_ready()
        callers = [connect(server) for _ in range(NUM_EACH)]
        for caller in callers:
            caller.sendall(REQUEST[:30])
        assert server.status("/livez") == 200
        server.process.send_signal(signal.SIGTERM)
        answers = [answer_on(caller).partition(b"\r\n\r\n") for caller in callers]
        assert server.exit_code() == 0
    assert {status_of(head) for head, _, _ in answers} == {b"HTTP/1.1 503 Service Unavailable"}
    assert {json.loads(body)["type"] for _, _, body in answers} == {"draining"}
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("num_requests", [0, 1])
def test_connections_that_nobody_uses_keep_nobody(tmp_path: Path, num_requests: int) -> None:
    """The drain timeout is a minute: the test would give up."""
    with server_process("tests.end_to_end.serve_fake", NOW, tmp_path / "log") as server, connect(server) as caller:
        server.wait_ready()
        caller.sendall(REQUEST * num_requests)
        answer = b""
        while answer.count(b'"extra_logs"') < num_requests or not answer.endswith(b"}" * num_requests):
            answer += caller.recv(65536)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_SECONDS / 2) == 0
        assert caller.recv(1) == b""
        assert answer.count(b"HTTP/1.1 200 OK") == num_requests
