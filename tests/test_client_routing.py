"""What a client tells a balancer of a request, and which model it takes answers from."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.client import AsyncRewardClient, RewardClient
from app.domain import Item, Message
from app.errors import RevisionChanged
from tests.counting_service import REVISION, handle, item

KEY = "X-Prompt-Key"
SYSTEM, FIRST, ANSWER, NEXT = (
    Message("system", "Be brief."),
    Message("user", "Größe?"),
    Message("assistant", "1 m"),
    Message("user", "And twice that?"),
)


def headers_of(items: list[Item], **options: Any) -> list[str | None]:
    """Return the key of each request of a call, None where it has none."""
    seen: list[str | None] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get(KEY))
        return handle(request)

    with RewardClient("http://service", transport=httpx.MockTransport(note), max_in_flight=1, **options) as client:
        client.score(items)
    return seen


def documented_key(prompt: tuple[Message, ...]) -> str:
    """As docs/deployment.md has callers without our client make it."""
    messages = [{"role": message.role, "content": message.content} for message in prompt]
    compact = json.dumps(messages, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(compact.encode()).hexdigest()[:16]


def test_requests_with_one_prompt_have_its_key_whatever_the_responses() -> None:
    alone, other = Item((FIRST,), ("one",)), Item((FIRST,), ("two", "three"))
    assert headers_of([alone, other], max_items_per_request=1) == [documented_key((FIRST,))] * 2
    assert headers_of([alone, other]) == [documented_key((FIRST,))]


def test_a_request_with_several_prompts_belongs_nowhere_and_has_none() -> None:
    assert headers_of([item(1), item(2)]) == [None]
    first, second = headers_of([item(1), item(2)], max_items_per_request=1)
    assert first != second


def test_what_is_cut_in_halves_has_the_keys_of_the_halves() -> None:
    seen: list[tuple[int, str | None]] = []

    def two_are_too_many(request: httpx.Request) -> httpx.Response:
        items = json.loads(request.content)["items"]
        seen.append((len(items), request.headers.get(KEY)))
        return httpx.Response(413) if len(items) > 1 else handle(request)

    with RewardClient("http://service", transport=httpx.MockTransport(two_are_too_many)) as client:
        client.score([item(1), item(2)])
    assert seen == [(2, None), *((1, documented_key(item(number).prompt)) for number in (1, 2))]


def test_turns_of_one_conversation_share_a_key_where_that_is_asked_for() -> None:
    early, late = Item((SYSTEM, FIRST), ("a",)), Item((SYSTEM, FIRST, ANSWER, NEXT), ("b",))
    by_prompt = headers_of([early, late], max_items_per_request=1)
    assert by_prompt == [documented_key(early.prompt), documented_key(late.prompt)]
    assert headers_of([early, late], prompt_key="first_turn") == [documented_key((SYSTEM, FIRST))]
    elsewhere = Item((SYSTEM, NEXT), ("c",))
    assert headers_of([early, elsewhere], prompt_key="first_turn") == [None], "a system prompt alone is no key"


def test_the_async_client_says_the_same() -> None:
    async def ask() -> str | None:
        seen: list[str | None] = []

        def note(request: httpx.Request) -> httpx.Response:
            seen.append(request.headers.get(KEY))
            return handle(request)

        async with AsyncRewardClient("http://service", transport=httpx.MockTransport(note)) as client:
            await client.score([item(3)])
        return seen[0]

    assert asyncio.run(ask()) == documented_key(item(3).prompt)


@pytest.mark.parametrize("method", ["score", "objectives", "moslim_classify"])
def test_any_model_but_the_expected_one_stops_the_caller_at_once(method: str) -> None:
    def call(expected: str, answer: Callable[[httpx.Request], httpx.Response] = handle) -> Any:
        transport = httpx.MockTransport(answer)
        with RewardClient("http://service", transport=transport, expect_revision=expected) as client:
            return getattr(client, method)([item(1)]), client

    results, client = call(REVISION)
    assert len(results) == 1
    assert client.model_revision == REVISION
    with pytest.raises(RevisionChanged, match=f"answered with revision {REVISION}; expected is 0000"):
        call("0000")
