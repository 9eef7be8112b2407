"""SIGTERM → /readyz 503 → drain_delay → stop accepting → finish what is inside → exit 0, in a real process."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.api.fake_engine import HOLD, POISON
from tests.end_to_end.processes import ServerProcess, queued_tokens, server_process, wait_until

FAKE = "tests.end_to_end.serve_fake"
GOOD = {"prompt": "Say something", "response": "aei? bcd"}
HELD = GOOD | {"response": HOLD}


def post(server: ServerProcess, body: dict[str, str]) -> httpx.Response:
    return httpx.post(server.url + "/score", json=body, timeout=60)


def is_refused(server: ServerProcess) -> bool:
    try:
        httpx.get(server.url + "/livez")
    except httpx.TransportError:  # closed before it, or with it on the doorstep
        return True
    return False


def test_the_whole_order(tmp_path: Path) -> None:
    with (
        server_process(FAKE, ["--drain-delay-seconds", "3"], tmp_path / "log") as server,
        ThreadPoolExecutor() as pool,
    ):
        server.wait_ready()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.status("/readyz") == 503)
        assert server.status("/livez") == 200
        assert post(server, GOOD).status_code == 200, "requests are still taken until balancers have noticed"
        held = pool.submit(post, server, HELD)
        wait_until(lambda: is_refused(server))
        assert held.result().status_code == 200, "what is inside is finished"
        assert server.exit_code() == 0


def test_what_does_not_finish_in_time_is_told_so(tmp_path: Path) -> None:
    flags = ["--drain-delay-seconds", "0", "--drain-timeout-seconds", "0.2", "--log-format", "text"]
    with server_process(FAKE, flags, tmp_path / "log") as server, ThreadPoolExecutor(99) as pool:
        server.wait_ready()
        held = []

        def some_wait_behind_the_held() -> bool:
            held.append(pool.submit(post, server, HELD))
            return queued_tokens(server) > 0

        wait_until(some_wait_behind_the_held)
        server.process.send_signal(signal.SIGTERM)
        # Whoever had not been let in by then finds the port closed.
        shut_out = (httpx.ConnectError, httpx.ReadError)
        answers = [one.result() for one in held if not isinstance(one.exception(), shut_out)]
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert any(answer.status_code == 503 and answer.json()["type"] == "draining" for answer in answers)
        assert server.exit_code() == 0


def test_a_caller_that_stops_in_the_middle_of_its_body_holds_nobody_up(tmp_path: Path) -> None:
    flags = ["--drain-delay-seconds", "0", "--drain-timeout-seconds", "0.5", "--log-format", "text"]
    log = tmp_path / "log"
    with server_process(FAKE, flags, log) as server:
        server.wait_ready()
        with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port or 0), timeout=60) as caller:
            caller.sendall(b'POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{"prompt": ')
            assert server.status("/livez") == 200
            server.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: caller.recv(65536), b""))
        assert server.exit_code() == 0
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["type"] == "draining"
    assert "Traceback" not in log.read_text()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with server_process(FAKE, ["--drain-delay-seconds", "600"], tmp_path / "log") as server:
        server.wait_ready()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.status("/readyz") == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 128 + signal.SIGTERM


def test_at_a_keyboard_nobody_waits_for_balancers(tmp_path: Path) -> None:
    with server_process(FAKE, ["--drain-delay-seconds", "600"], tmp_path / "log") as server:
        server.wait_ready()
        server.process.send_signal(signal.SIGINT)
        assert server.exit_code() == 0


def test_a_poisoned_device_ends_the_process_with_an_error(tmp_path: Path) -> None:
    with server_process(FAKE, [], tmp_path / "log") as server:
        server.wait_ready()
        assert post(server, GOOD | {"response": POISON}).status_code in (500, 503)
        assert server.exit_code() == 1


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_text_of_a_request_is_logged(tmp_path: Path, log_format: str) -> None:
    log = tmp_path / "log"
    with server_process(FAKE, ["--log-format", log_format], log) as server:
        server.wait_ready()
        for body in ({"prompt": "xyzzy", "response": "plugh"}, {"prompt": "xyzzy", "response": 7}, {"prompt": "xyzzy"}):
            post(server, body)  # type: ignore[arg-type]
        wait_until(lambda: log.read_text().count("/score") == 3)  # the line of each
        assert "xyzzy" not in log.read_text()
        assert "plugh" not in log.read_text()
