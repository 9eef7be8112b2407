"""What a stream may hold, how long it may stand still, and how it ends: by hand on raw sockets."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from app.api.lines import LINES_IN_FLIGHT
from app.domain import Item, TokenizedItem, Truncation
from app.engine import Engine
from tests.api.fake_engine import HOLD, FakeEngine, encode
from tests.api.serving import Served, serving, wait_until
from tests.api.streaming import RawStream, raw_stream

MANY = 1000
BUFFER_BYTES = 16 * 1024


class CountingEngine(FakeEngine):
    """Counts the items that were read and tokenised."""

    num_encoded = 0

    def engine(self) -> Engine:
        whole = super().engine()
        return Engine(whole.info, self.encode, whole.encode_rollout, whole.forward, whole.render)

    def encode(self, item: Item, truncation: Truncation = "never") -> TokenizedItem:
        self.num_encoded += 1
        return encode(item, truncation)


def bulk_tokens(served: Served) -> float:
    return served.metric("armoserve_queued_tokens", priority="bulk")


def send_many(stream: RawStream) -> None:
    for _ in range(MANY):
        stream.send_item(id="a long name of a short item " * 18)


def tokens_of(num_items: int) -> int:
    """Count the tokens of as many items that `send_item` made up: they share their prompt."""
    return len("<user>a<assistant>") + 2 * num_items


@contextmanager
def narrow_stream(served: Served) -> Iterator[RawStream]:
    """Open a stream between whose ends the sockets hold little; there is no one else's connection before it."""
    (listener,) = served.server.servers[0].sockets
    for side in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        listener.setsockopt(socket.SOL_SOCKET, side, BUFFER_BYTES)
    with raw_stream(served.port, buffer_bytes=BUFFER_BYTES) as stream:
        yield stream


def test_answers_come_while_lines_are_sent(served: Served) -> None:
    with raw_stream(served.port) as stream:
        for number in (1, 2, 4):
            stream.send_item(id=f"item {number}")
            assert stream.line()["id"] == f"item {number}"
            if number == 2:
                stream.send(b"\n")
        stream.end()
        assert stream.lines() == []


def test_the_answer_begins_before_any_line_and_expect_is_honoured(served: Served) -> None:
    with raw_stream(served.port) as stream:
        assert stream.answer.status == 200
    with raw_stream(served.port, headers="Expect: 100-continue\r\n") as stream:
        assert stream.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert stream.answer.status == 200


def test_no_more_lines_are_read_than_the_window_holds() -> None:
    fake = CountingEngine()
    with serving(fake) as running, raw_stream(running.port) as stream:
        stream.send_item(response=HOLD)
        wait_until(fake.holding.is_set)
        for _ in range(MANY - 1):
            stream.send_item()
        stream.end()
        wait_until(lambda: fake.num_encoded == LINES_IN_FLIGHT)
        running.post("/score", {"prompt": "a", "response": "b"}, headers={"X-Timeout-Ms": "200"})
        assert fake.num_encoded == LINES_IN_FLIGHT + 1, "the other caller's item is the only one more"
        fake.release.set()
        assert sorted(line["line"] for line in stream.lines()) == list(range(1, MANY + 1))


def test_what_is_done_first_is_answered_first() -> None:
    with serving() as running, raw_stream(running.port) as stream:
        stream.send_item(id="held", response=HOLD)
        wait_until(running.fake.holding.is_set)
        stream.send(b'{"id": "wrong"}\n')
        assert stream.line()["id"] == "wrong"
        running.fake.release.set()
        assert stream.line()["id"] == "held"


def test_a_slow_reader_gets_everything() -> None:
    with serving() as running, narrow_stream(running) as stream:
        sending = threading.Thread(target=lambda: (send_many(stream), stream.end()))
        sending.start()
        lines = []
        while line := stream.answer.readline():
            lines.append(json.loads(line))
        sending.join()
    assert sorted(line["line"] for line in lines) == list(range(1, MANY + 1))
    assert all(line["scores"] == pytest.approx(lines[0]["scores"], abs=1e-6) for line in lines)


class TestStandingStill:
    def test_a_caller_that_reads_nothing_while_it_sends_is_told_so(self) -> None:
        fake = CountingEngine()
        with serving(fake, stream_stall_seconds="1") as running, narrow_stream(running) as stream:
            send_many(stream)
            stream.end()
            *answers, last = stream.lines()
            assert set(last) == {"error"}
            assert last["error"]["type"] == "stream-stalled"
            assert last["error"]["message"].startswith("no answer was taken for 1 seconds")
            assert f"lines after line {len(answers)} were not read" in last["error"]["message"]
            assert sorted(answer["line"] for answer in answers) == list(range(1, len(answers) + 1))
            assert len(answers) < MANY
            assert fake.num_encoded == len(answers)
            assert stream.is_closed()

    def test_a_caller_that_sends_nothing_is_told_so(self) -> None:
        with serving(stream_stall_seconds="0.3") as running, raw_stream(running.port) as stream:
            stream.send_item(id="a")
            stream.send(b'{"id": "half a line')
            first, last = stream.lines()
            assert first["id"] == "a"
            assert last["error"]["type"] == "stream-stalled"
            assert last["error"]["message"] == "nothing came for 0.3 seconds; lines after line 1 were not read"
            assert stream.is_closed()

    def test_a_caller_that_waits_for_its_answer_is_not_standing_still(self) -> None:
        with serving(stream_stall_seconds="0.2") as running, raw_stream(running.port) as stream:
            stream.send_item(id="held", response=HOLD)
            wait_until(running.fake.holding.is_set)
            assert not running.fake.release.wait(1)
            running.fake.release.set()
            assert stream.line()["id"] == "held"

    def test_a_caller_that_neither_sends_nor_takes_is_given_up(self) -> None:
        with serving(stream_stall_seconds="0.2") as running, narrow_stream(running) as stream:
            send_many(stream)  # and no end
            wait_until(lambda: not running.server.server_state.connections)
            assert running.client.get("/livez").status_code == 200


class TestLeaving:
    def test_what_is_in_flight_is_dropped(self) -> None:
        with serving() as running:
            with raw_stream(running.port) as stream:
                stream.send_item(response=HOLD)
                wait_until(running.fake.holding.is_set)
                for _ in range(10):
                    stream.send_item()
                stream.send(b'{"prompt": "half a line')
                wait_until(lambda: bulk_tokens(running) == tokens_of(10))
            wait_until(lambda: bulk_tokens(running) == 0)
            assert running.metric("armoserve_dropped_total", reason="cancelled") == 10
            running.fake.release.set()
            wait_until(lambda: not running.server.server_state.tasks)

    def test_also_once_the_last_line_was_sent(self) -> None:
        with serving() as running:
            with raw_stream(running.port) as stream:
                stream.send_item(response=HOLD)
                wait_until(running.fake.holding.is_set)
                stream.send_item()
                stream.end()
                wait_until(lambda: bulk_tokens(running) > 0)
            wait_until(lambda: bulk_tokens(running) == 0)


def test_what_the_queue_cannot_take_at_once_waits() -> None:
    with serving(max_queued_tokens="300") as running:
        items = [{"id": letter, "prompt": letter * 250, "response": "b"} for letter in "abcdef"]
        response = running.client.post("/score/stream", content="\n".join(map(json.dumps, items)))
        answers = [json.loads(line) for line in response.content.splitlines()]
        assert sorted(answer["id"] for answer in answers) == list("abcdef")
        assert all("scores" in answer for answer in answers)


def test_a_line_waits_for_room_for_longer_than_a_request() -> None:
    with serving(max_queued_tokens="300", max_wait_seconds="0.05") as running, raw_stream(running.port) as stream:
        stream.send_item(id="held", response=HOLD)
        wait_until(running.fake.holding.is_set)
        stream.send_item(id="inside", prompt="a" * 250)
        wait_until(lambda: bulk_tokens(running) > 0)
        stream.send_item(id="before", prompt="b" * 250)
        time.sleep(0.2)
        running.fake.release.set()
        answers = [stream.line() for _ in range(3)]
        assert {answer["id"] for answer in answers if "scores" in answer} == {"held", "inside", "before"}


def test_a_deadline_is_each_lines_own() -> None:
    with serving() as running, raw_stream(running.port, headers="X-Timeout-Ms: 300\r\n") as stream:
        stream.send_item(id="held", response=HOLD)
        wait_until(running.fake.holding.is_set)
        stream.send_item(id="late")
        late = stream.line()
        assert (late["id"], late["error"]["type"]) == ("late", "deadline-exceeded")
        running.fake.release.set()
        assert "scores" in stream.line()
        stream.send_item(id="in time")
        assert "scores" in stream.line()


def test_httpx_sends_all_of_a_stream_that_the_sockets_hold(served: Served) -> None:
    def content() -> Any:
        for number in range(MANY):
            yield json.dumps({"id": number, "prompt": "a", "response": "b"}).encode() + b"\n"

    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=30) as client:
        answers = [json.loads(line) for line in client.post("/score/stream", content=content()).content.splitlines()]
    assert sorted(answer["id"] for answer in answers) == list(range(MANY))
