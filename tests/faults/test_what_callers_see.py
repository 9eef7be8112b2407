"""Faults over HTTP: what callers get, and whether /livez and /readyz tell the truth, while it lasts and after.

docs/operations.md lists every fault with its test; those that end the process are in tests/end_to_end.
"""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.api import json_body
from app.errors import DeviceOutOfMemory
from app.packing import Pack, PackOutput
from tests.api.fake_engine import HOLD, NAN, FakeEngine, response_texts, rewards_of
from tests.api.serving import Served, serving, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = {"prompt": "Say something", "response": "aei? bcd"}
BIG, DEADLY = "\N{ELEPHANT}", "\N{COFFIN}"
WELL, NEITHER = (200, 200), (503, 503)


@dataclass
class BreakingEngine(FakeEngine):
    """Also runs out of memory, and kills its thread."""

    def forward(self, pack: Pack) -> PackOutput:
        texts = response_texts(pack)
        if any(BIG in text for text in texts):
            raise DeviceOutOfMemory("tried to allocate 2 GiB")
        if any(DEADLY in text for text in texts):
            raise SystemExit("killed")
        return super().forward(pack)


@dataclass
class Held:
    """Requests that wait behind one that holds the engine."""

    running: Served
    pool: ThreadPoolExecutor
    first: Any = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.pool.submit(self.running.post, "/score", GOOD | {"response": HOLD})
        assert self.running.fake.holding.wait(20)

    def release(self) -> None:
        self.running.fake.release.set()
        assert self.first.result().status_code == 200


def probes(running: Served) -> tuple[int, int]:
    return running.client.get("/livez").status_code, running.client.get("/readyz").status_code


def assert_answers(running: Served) -> None:
    """The next caller gets a right answer."""
    answer = running.post("/objectives", GOOD)
    assert answer.status_code == 200
    rewards = [row["reward"] for row in answer.json()["results"][0]["responses"][0]["objectives"]]
    assert rewards == pytest.approx(rewards_of(GOOD["response"]))


def send(connection: socket.socket, body: dict[str, Any], *, leave_out: int = 0) -> None:
    content = json.dumps(body).encode()
    connection.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content))
    connection.sendall(content[: len(content) - leave_out])


@pytest.mark.parametrize(
    ("response", "words"),
    [(BIG, "this response alone does not fit into the device's memory"), (NAN, "NaN or infinity")],
    ids=["out of memory", "nan"],
)
def test_a_response_that_the_model_cannot_score_fails_alone(response: str, words: str) -> None:
    with serving(BreakingEngine()) as running:
        items = [{"prompt": f"Say {number}", "response": "ok"} for number in range(6)]
        items[3]["response"] = response
        answer = running.post("/score", {"items": items})
        assert answer.status_code == 200
        failed = [index for index, result in enumerate(answer.json()["results"]) if "error" in result]
        assert failed == [3]
        assert words in answer.json()["results"][3]["error"]["message"]
        alone = running.post("/score", items[3])
        assert (alone.status_code, alone.json()["type"]) == (500, "inference-failed")
        assert probes(running) == WELL
        assert_answers(running)


def test_a_dead_engine_thread_is_said_to_every_caller_and_probe() -> None:
    with serving(BreakingEngine()) as running:
        answer = running.post("/score", GOOD | {"response": DEADLY})
        assert (answer.status_code, answer.json()["type"]) == (500, "inference-failed")
        wait_until(lambda: probes(running) == NEITHER)
        later = running.post("/score", GOOD)
        assert (later.status_code, later.json()["type"]) == (503, "not-ready")


def test_a_fifth_of_the_callers_leaving_takes_nothing_from_the_others() -> None:
    with serving() as running, ThreadPoolExecutor(100) as pool, ExitStack() as leavers:
        held = Held(running, pool)
        leaving = [leavers.enter_context(running.connection()) for _ in range(20)]
        for number, connection in enumerate(leaving):
            send(connection, {"prompt": f"left {number}", "response": "never"})
        staying = [pool.submit(running.post, "/objectives", GOOD | {"response": "a" * n}) for n in range(1, 81)]
        queued = sum(len(f"<user>left {number}<assistant>never\0") for number in range(20))
        queued += len("<user>Say something<assistant>") + sum(n + 1 for n in range(1, 81))
        wait_until(lambda: running.metric("armoserve_queued_tokens", priority="interactive") == queued)
        leavers.close()
        wait_until(lambda: running.metric("armoserve_dropped_total", reason="cancelled") == 20)
        assert probes(running) == WELL
        held.release()
        for number, answer in enumerate((one.result() for one in staying), start=1):
            rows = answer.json()["results"][0]["responses"][0]["objectives"]
            assert rows[0]["reward"] == pytest.approx(number / 100)
        assert running.fake.num_scored == 81, "nothing was computed for those who had left"
        wait_until(lambda: not running.server.server_state.tasks)


def test_a_deadline_is_told_while_the_engine_is_busy() -> None:
    with serving() as running, ThreadPoolExecutor() as pool:
        held = Held(running, pool)
        answer = running.post("/score", GOOD, headers={"X-Timeout-Ms": "50"})
        assert (answer.status_code, answer.json()["type"]) == (504, "deadline-exceeded")
        assert probes(running) == WELL
        held.release()
        assert_answers(running)


def test_half_sent_bodies_hold_nobody_up_and_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "LONGEST_SILENCE_SECONDS", 1.0)
    with serving() as running, ExitStack() as stack:
        halves = [stack.enter_context(running.connection()) for _ in range(50)]
        for connection in halves:
            send(connection, GOOD, leave_out=5)
        assert_answers(running)
        assert probes(running) == WELL
        for connection in halves:
            answer = b"".join(iter(lambda connection=connection: connection.recv(4000), b""))  # type: ignore[misc]
            assert answer.startswith(b"HTTP/1.1 408 ")
        assert_answers(running)


def test_slow_readers_hold_nobody_up_and_get_all_of_it() -> None:
    with serving() as running, ExitStack() as stack:
        (listener,) = running.server.servers[0].sockets
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        slow = [stack.enter_context(running.connection()) for _ in range(10)]
        for connection in slow:
            send(connection, {"items": [{"prompt": "p", "response": "r" * 50}] * 64})
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
        assert_answers(running)
        assert probes(running) == WELL
        for connection in slow:
            answer = b""
            while (body := answer.partition(b"\r\n\r\n")[2]).count(b"]") < 1 or not body.endswith(b"}}"):
                answer += connection.recv(256)
            assert len(json.loads(body)["results"]) == 64


def test_every_fault_of_the_table_has_the_test_that_it_names() -> None:
    page = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    table = page.partition("\n## Faults\n")[2].partition("\n## ")[0]
    named = re.findall(r"`tests/(\S+)::(\w+)`", table)
    assert len(named) >= 12
    for path, test in named:
        assert f"def {test}(" in (REPOSITORY / "tests" / path).read_text(encoding="utf-8"), test
