"""Trainers' requests that come while the weights load: they wait, until something ends that."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import pytest

from app.api.state import ServedModel, ServerState
from app.engine import Engine
from app.errors import InvalidWeights
from app.serving.jobs import Priority
from app.serving.queue import JobQueue
from app.settings import Settings
from tests.api.fake_engine import FakeEngine
from tests.api.serving import PATIENCE_SECONDS, Served, serving, wait_until
from tests.api.test_get_reward import PROMPT, QUERY

BODY = {"query": [QUERY[0]], "prompts": [PROMPT], "labels": [None]}
LONG_AFTER_SECONDS = 1000 * PATIENCE_SECONDS


class Loading:
    """Weights that load for as long as a test wants, and then are there, or are not."""

    def __init__(self) -> None:
        self.fake = FakeEngine()
        self.error: Exception | None = None
        self.may_end = threading.Event()

    def load(self, _: Settings) -> Engine:
        assert self.may_end.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        return self.fake.engine()


@contextmanager
def loading(max_wait_seconds: float = LONG_AFTER_SECONDS) -> Iterator[tuple[Loading, Served]]:
    weights = Loading()
    with serving(weights.fake, weights.load, max_wait_seconds=str(max_wait_seconds)) as running:
        try:
            yield weights, running
        finally:
            weights.may_end.set()


def num_waiting(running: Served) -> int:
    return len(running.server.server_state.tasks)


def test_a_request_waits_for_the_weights_and_the_probe_says_so() -> None:
    with loading() as (weights, running), ThreadPoolExecutor() as pool:
        waiting = [pool.submit(running.post, "/get_reward", BODY) for _ in range(5)]
        wait_until(lambda: num_waiting(running) == 5)
        assert running.client.get("/readyz").status_code == 503
        assert running.client.get("/livez").status_code == 200
        assert running.post("/score", {"prompt": "a", "response": "b"}).json()["type"] == "not-ready"
        assert not any(one.done() for one in waiting)
        weights.may_end.set()
        assert {one.result().status_code for one in waiting} == {200}
        assert len({json.dumps(one.result().json()) for one in waiting}) == 1


def test_what_is_wrong_with_a_request_is_said_at_once() -> None:
    with loading() as (_, running):
        assert running.post("/get_reward", {"query": 7}).status_code == 422


@pytest.mark.parametrize(
    ("max_wait_seconds", "timeout_ms", "answer"),
    [
        (0.05, None, (503, "not-ready")),
        (0.05, str(1000 * LONG_AFTER_SECONDS), (503, "not-ready")),
        (LONG_AFTER_SECONDS, "50", (504, "deadline-exceeded")),
    ],
)
def test_patience_ends(max_wait_seconds: float, timeout_ms: str | None, answer: tuple[int, str]) -> None:
    headers = {} if timeout_ms is None else {"X-Timeout-Ms": timeout_ms}
    with loading(max_wait_seconds) as (_, running):
        response = running.post("/get_reward", BODY, headers=headers)
        assert (response.status_code, response.json()["type"]) == answer


def test_waiting_for_the_weights_uses_up_patience_for_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, patience = threading.Event(), Mock()
    awaited_model, has_room = ServerState.awaited_model, JobQueue.has_room

    async def await_model(state: ServerState, *limits: float | None) -> ServedModel:
        waits.set()
        return await awaited_model(state, *limits)

    def look(queue: JobQueue, jobs: Any, priority: Priority, patience_seconds: float) -> bool:
        patience(patience_seconds)
        return has_room(queue, jobs, priority, patience_seconds)

    monkeypatch.setattr(ServerState, "awaited_model", await_model)
    monkeypatch.setattr(JobQueue, "has_room", look)
    with loading() as (weights, running), ThreadPoolExecutor() as pool:
        waiting = pool.submit(running.post, "/get_reward", BODY)
        assert waits.wait(PATIENCE_SECONDS)
        came_before = time.monotonic()
        time.sleep(0.1)
        waited_seconds = time.monotonic() - came_before  # at least
        weights.may_end.set()
        assert waiting.result().status_code == 200
        (left_seconds,) = patience.call_args.args
        assert left_seconds <= LONG_AFTER_SECONDS - waited_seconds


def test_nobody_waits_for_weights_that_do_not_load() -> None:
    with loading() as (weights, running), ThreadPoolExecutor() as pool:
        weights.error = InvalidWeights("the head is missing")
        waiting = pool.submit(running.post, "/get_reward", BODY)
        wait_until(lambda: num_waiting(running) == 1)
        weights.may_end.set()
        assert (waiting.result().status_code, waiting.result().json()["type"]) == (503, "draining")
        assert running.server.failure is weights.error


def test_nobody_waits_when_the_port_closes() -> None:
    with loading() as (_, running), ThreadPoolExecutor() as pool:
        waiting = pool.submit(running.post, "/get_reward", BODY)
        wait_until(lambda: num_waiting(running) == 1)
        running.server.should_exit = True
        assert (waiting.result().status_code, waiting.result().json()["type"]) == (503, "draining")


def test_a_caller_who_leaves_leaves_nothing_behind() -> None:
    content = json.dumps(BODY).encode()
    head = b"POST /get_reward HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
    with loading() as (weights, running):
        with running.connection() as caller:
            caller.sendall(head + content)
            wait_until(lambda: num_waiting(running) == 1)
        wait_until(lambda: num_waiting(running) == 0)
        weights.may_end.set()
        wait_until(lambda: running.client.get("/readyz").status_code == 200)
        assert weights.fake.num_scored == 0
