"""What takes long for large requests is done in threads: the event loop answers others meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.api import json_body, scoring
from app.api.dependencies import BUILT_AT_ONCE
from app.api.trainers import call, conversations
from tests.api.serving import Served, serving

SMALL = {"prompt": "Say something", "response": "aei? bcd"}
ITEMS = [{"prompt": f"Say {number}", "response": "ok"} for number in range(60)]
LONG = [{"prompt": "p" * 1000, "response": "ok"}] * 60
TEXT = "<|im_start|>user\nSay something<|im_end|>\n<|im_start|>assistant\nok<|im_end|>\n"
WIDE = [{"prompt": "Say something", "responses": ["ok"] * 64}]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[bool]]:
    """Say of each call whether a loop ran in its thread."""
    seen: dict[str, list[bool]] = {}

    def watch(module: object, name: str) -> None:
        work: Callable[..., Any] = getattr(module, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            seen.setdefault(name, []).append(asyncio._get_running_loop() is not None)
            return work(*arguments, **options)

        monkeypatch.setattr(module, name, watched)

    watch(json_body, "parse")
    for name in ("items_of", "results_of", "json_response"):
        watch(scoring, name)
    return seen


def on_loop(served: Served, threads: dict[str, list[bool]], path: str, body: Any) -> dict[str, bool]:
    threads.clear()
    assert served.post(path, body).status_code == 200
    return {name: one for name, (one,) in threads.items()}


@pytest.mark.parametrize("path", ["/score", "/objectives", "/moslim-classify"])
def test_only_small_requests_are_parsed_and_answered_on_the_loop(path: str, threads: dict[str, list[bool]]) -> None:
    with serving() as served:
        everything = {"parse", "items_of", "results_of", "json_response"}
        assert on_loop(served, threads, path, SMALL) == dict.fromkeys(everything, True)
        assert on_loop(served, threads, path, {"items": LONG}) == dict.fromkeys(everything, False) | {
            "results_of": True,  # of items that are errors there is nothing to build
            "json_response": True,
        }
        wide = on_loop(served, threads, path, {"items": WIDE})
        assert wide == {"parse": True, "items_of": True, "results_of": False, "json_response": False}
        many = on_loop(served, threads, path, {"items": ITEMS})
        assert many == {"parse": True, "items_of": False, "results_of": False, "json_response": False}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/get_reward?template=chatml", "query"),
        ("/v1/score/evaluation?template=chatml", "messages"),
        ("/v1/rerank", "documents"),
    ],
)
def test_only_small_answers_to_trainers_are_built_on_the_loop(
    path: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    respond, reward = call._response, conversations._rewarded

    def watched_respond(*arguments: Any) -> Any:
        seen.append(("answer", asyncio._get_running_loop() is not None))
        return respond(*arguments)

    def watched_reward(*arguments: Any) -> Any:
        seen.append(("reward", asyncio._get_running_loop() is not None))
        return reward(*arguments)

    monkeypatch.setattr(call, "_response", watched_respond)
    monkeypatch.setattr(conversations, "_rewarded", watched_reward)
    with serving() as served:
        for number in (BUILT_AT_ONCE, BUILT_AT_ONCE + 1):
            seen.clear()
            body = {field: [TEXT] * number} | ({"query": "Say something"} if field == "documents" else {})
            assert served.post(path, body).status_code == 200
            on_loop = number == BUILT_AT_ONCE
            assert seen == [("reward", on_loop)] * number + [("answer", on_loop)]
