"""What is let in: keys, sizes, deadlines, callers who stay."""

import base64
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.api import json_body
from tests.api.fake_engine import HOLD, FakeEngine
from tests.api.serving import Served, serving, wait_until

GOOD = {"prompt": "Say something", "response": "aei? bcd"}
PROTECTED = ["/score", "/objectives", "/moslim-classify", "/tokenize", "/info", "/docs", "/openapi.json", "/nothing"]


def basic(password: str, user: str = "any") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TestKeys:
    @pytest.fixture(scope="class")
    def keyed(self) -> Iterator[Served]:
        with serving(api_keys="first-key,second:key") as running:
            yield running

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": "Bearer first-key"},
            {"Authorization": "bearer  first-key"},
            {"X-API-Key": "second:key"},
            {"Authorization": basic("first-key")},
            {"Authorization": basic("second:key", user="")},
            {"Authorization": "Bearer wrong", "X-API-Key": "first-key"},
        ],
    )
    def test_a_valid_key_in_any_of_three_ways(self, keyed: Served, headers: dict[str, str]) -> None:
        assert keyed.post("/score", GOOD, headers=headers).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Authorization": "Bearer first-key2"},
            {"Authorization": "Bearer first-ke"},
            {"Authorization": "Bearer"},
            {"Authorization": "first-key"},
            {"Authorization": "Digest first-key"},
            {"Authorization": basic("wrong")},
            {"Authorization": basic("", user="first-key")},
            {"Authorization": "Basic !!!"},
            {"X-API-Key": ""},
            {"X-API-Key": "first-key,second:key"},
            {"Cookie": "key=first-key"},
        ],
    )
    @pytest.mark.parametrize("path", PROTECTED)
    def test_no_valid_key_no_answer(self, keyed: Served, path: str, headers: dict[str, str]) -> None:
        response = keyed.post(path, GOOD, headers=headers)
        assert (response.status_code, response.json()["type"]) == (401, "unauthorized")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert "first-key" not in response.text

    def test_a_body_is_not_read_without_a_key(self, keyed: Served) -> None:
        with keyed.connection() as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 401")

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
    def test_probes_are_open(self, keyed: Served, path: str) -> None:
        assert keyed.client.get(path).status_code == 200

    def test_metrics_may_need_a_key_too(self) -> None:
        with serving(api_keys="first-key", metrics_auth="true") as running:
            assert running.client.get("/metrics").status_code == 401
            assert running.client.get("/metrics", headers={"X-API-Key": "first-key"}).status_code == 200


class TestSizes:
    @pytest.fixture(scope="class")
    def small(self) -> Iterator[Served]:
        with serving(max_body_bytes="1000") as running:
            yield running

    def test_an_announced_size_is_refused_before_anything_is_read(self, small: Served) -> None:
        with small.connection() as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
            answer = connection.recv(4000)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b'"body-too-large"' in answer
            assert b"connection: close" in answer.lower()

    def test_nobody_is_asked_to_send_what_will_be_refused(self, small: Served) -> None:
        with small.connection() as connection:
            connection.sendall(
                b"POST /score HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n"
            )
            assert connection.recv(4000).startswith(b"HTTP/1.1 413")

    def test_chunks_are_counted_as_they_come(self, small: Served) -> None:
        with small.connection() as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.sendall(b"258\r\n" + b" " * 600 + b"\r\n")
            connection.sendall(b"258\r\n" + b" " * 600 + b"\r\n")
            assert connection.recv(4000).startswith(b"HTTP/1.1 413")

    def test_a_body_that_stops_coming_is_given_up(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(json_body, "LONGEST_SILENCE_SECONDS", 0.1)
        with served.connection() as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n{")
            answer = b"".join(iter(lambda: connection.recv(4000), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in answer
        assert served.post("/score", GOOD).status_code == 200

    def test_the_limit_itself_is_allowed(self, small: Served) -> None:
        body = b'{"prompt": "Say something", "response": "x"}'
        assert small.client.post("/score", content=body.ljust(1000)).status_code == 200
        assert small.client.post("/score", content=iter([body, b" " * (1000 - len(body))])).status_code == 200
        assert small.client.post("/score", content=iter([body, b" " * (1001 - len(body))])).status_code == 413


class TestPatience:
    @pytest.fixture
    def running(self) -> Iterator[Served]:
        with serving(FakeEngine()) as running:
            yield running

    def hold_engine(self, running: Served, pool: ThreadPoolExecutor) -> None:
        pool.submit(running.post, "/score", GOOD | {"response": HOLD})
        assert running.fake.holding.wait(20)

    def test_a_deadline_that_passes_in_the_queue(self, running: Served) -> None:
        with ThreadPoolExecutor() as pool:
            self.hold_engine(running, pool)
            response = running.post("/score", GOOD, headers={"X-Timeout-Ms": "50"})
            assert (response.status_code, response.json()["type"]) == (504, "deadline-exceeded")
            running.fake.release.set()
        assert running.fake.num_scored == 1

    def test_a_deadline_that_holds(self, running: Served) -> None:
        assert running.post("/score", GOOD, headers={"X-Timeout-Ms": "10000.5"}).status_code == 200

    def test_a_caller_who_leaves_is_not_scored(self, running: Served) -> None:
        with ThreadPoolExecutor() as pool:
            self.hold_engine(running, pool)
            with pytest.raises(httpx.ReadTimeout):
                running.post("/score", {"prompt": "x", "responses": ["y"] * 5}, timeout=0.2)
            wait_until(lambda: running.metric("armoserve_dropped_total", reason="cancelled") == 5)
            running.fake.release.set()
        wait_until(lambda: running.metric("armoserve_requests_total", route="/score", status="499") == 1)
        assert running.post("/score", GOOD).status_code == 200
        assert running.fake.num_scored == 2

    def test_too_much_is_turned_away_with_a_time_to_come_back(self) -> None:
        with serving(max_queued_tokens="100") as running, ThreadPoolExecutor() as pool:
            self.hold_engine(running, pool)
            first = pool.submit(running.post, "/score", {"prompt": "x" * 50, "response": "y"})
            wait_until(lambda: running.metric("armoserve_queued_tokens", priority="interactive") > 50)
            response = running.post("/score", {"prompt": "z" * 50, "response": "y"})
            assert (response.status_code, response.json()["type"]) == (429, "overloaded")
            assert int(response.headers["retry-after"]) >= 1
            running.fake.release.set()
            assert first.result().status_code == 200


class TestSockets:
    """What no HTTP library sends; after each, the server answers the next caller."""

    @pytest.mark.parametrize(
        "sent",
        [
            b"",
            b"\r\n\r\n",
            b"GARBAGE\r\n\r\n",
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Le",
            b'POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"prompt": "x"',
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n",
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
            b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}EXTRA",
            b"POST /score HTTP/9.9\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 100_000 + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        ],
    )
    def test_nonsense_harms_nobody_else(self, served: Served, sent: bytes) -> None:
        with served.connection() as connection:
            connection.sendall(sent)
        assert served.post("/score", GOOD).status_code == 200

    def test_a_head_without_an_end_is_cut_off(self, served: Served) -> None:
        with served.connection() as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Endless: ")
            with pytest.raises(OSError, match=r"(?i)reset|pipe"):
                send_for_ever(connection)
        assert served.post("/score", GOOD).status_code == 200

    def test_a_head_within_the_bound_is_fine(self, served: Served) -> None:
        assert served.client.get("/livez", headers={"X-Large": "a" * 50_000}).status_code == 200

    def test_many_requests_on_one_connection_do_not_add_up_to_a_large_head(self, served: Served) -> None:
        for _ in range(30):
            assert served.client.get("/livez", headers={"X-Large": "a" * 10_000}).status_code == 200

    def test_a_slow_sender_is_waited_for_and_holds_nobody_up(self, served: Served) -> None:
        body = b'{"prompt": "Say something", "response": "aei? bcd"}'
        with served.connection() as connection:
            connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
            for byte in body[:-1]:
                connection.sendall(bytes([byte]))
            assert served.post("/score", GOOD).status_code == 200
            connection.sendall(body[-1:])
            assert connection.recv(4000).startswith(b"HTTP/1.1 200")

    def test_a_hundred_callers_at_once(self, served: Served) -> None:
        barrier = threading.Barrier(50)

        def call(number: int) -> list[float]:
            barrier.wait()
            answer = httpx.post(
                f"http://127.0.0.1:{served.port}/score", json={"prompt": "x", "response": "a" * (number + 1)}
            )
            tokens: list[float] = answer.json()["results"][0]["tokens"]["responses"]
            return tokens

        with ThreadPoolExecutor(50) as pool:
            assert list(pool.map(call, range(100))) == [[number + 2] for number in range(100)]


def send_for_ever(connection: socket.socket) -> None:
    for _ in range(10_000):
        connection.sendall(b"a" * 10_000)
        time.sleep(0.001)
