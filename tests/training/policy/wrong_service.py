"""A service of a few lines on a real port, which answers wrongly, but with status 200, from one answer on."""

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from tests import counting_service

Wrong = Callable[[dict[str, Any]], object]
"""Makes a sound answer a wrong one; may return what is to be sent in its place."""
NEVER: Final = 10**9


def too_few_results(answer: dict[str, Any]) -> None:
    answer["results"].pop()


def too_many_rewards(answer: dict[str, Any]) -> None:
    rewards = _rewards(answer["results"][-1])
    rewards.append(rewards[0])


def reward_of(value: float | str | None) -> Wrong:
    """Return what puts a value in place of one reward."""

    def wrong(answer: dict[str, Any]) -> None:
        last = answer["results"][-1]
        if "preference_scores" in last:
            last["preference_scores"][-1][-1] = value
        else:
            last["responses"][-1]["reward"] = value

    return wrong


def no_reward(answer: dict[str, Any]) -> None:
    last = answer["results"][-1]
    del last["preference_scores" if "preference_scores" in last else "responses"]


def _rewards(result: dict[str, Any]) -> list[Any]:
    rewards: list[Any] = result["preference_scores"][-1] if "preference_scores" in result else result["responses"]
    return rewards


WRONG: Final[dict[str, tuple[Wrong, str]]] = {
    "too few results": (too_few_results, r"results has \d+ entries for \d+ items"),
    "too many rewards": (too_many_rewards, r"results\[\d+\]\.\S+ has \d+ entries for \d+ responses"),
    "NaN": (reward_of(math.nan), r"results\[\d+\]\.\S+ is not a finite number"),
    "Infinity": (reward_of(-math.inf), r"results\[\d+\]\.\S+ is not a finite number"),
    "null": (reward_of(None), r"results\[\d+\]\.\S+ is (not a number|null where targets were given)"),
    "a string": (reward_of("0.5"), r"results\[\d+\]\.\S+ is not a number"),
    "no rewards": (no_reward, r"results\[\d+\]\.\S+ is missing"),
    "nothing": (lambda _: {}, "results is missing"),
}
"""What is wrong, and how the error must name it."""


class WrongService(ThreadingHTTPServer):
    """Answers soundly until the answer of a number, counted from 1, and wrongly from there on."""

    daemon_threads = True

    def __init__(self, wrong: Wrong, first_wrong: int) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.num_answers = 0
        self._wrong, self._first_wrong = wrong, first_wrong
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> object:
        answer = counting_service.answer(json.loads(body), path)
        with self._lock:
            self.num_answers += 1
            is_wrong = self.num_answers >= self._first_wrong
        instead = self._wrong(answer) if is_wrong else None
        return answer if instead is None else instead


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WrongService

    def do_GET(self) -> None:
        self._send(counting_service.INFO)

    def do_POST(self) -> None:
        self._send(self.server.answer(self.path, self.rfile.read(int(self.headers["Content-Length"]))))

    def _send(self, answer: object) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def wrong_service(wrong: Wrong = lambda _: None, first_wrong: int = NEVER) -> Iterator[WrongService]:
    """Run a service until the end of the block; a sound one unless told otherwise."""
    service = WrongService(wrong, first_wrong)
    thread = threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
        thread.join()
