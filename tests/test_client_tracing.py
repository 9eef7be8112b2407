"""Requests carry the trace context of whoever asks, where the process traces; where it does not, nothing is loaded."""

import asyncio
import json
import subprocess
import sys

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from app.client import AsyncRewardClient, RewardClient
from tests.counting_service import answer, item

ITEMS = [item(number) for number in range(3)]


class Noting:
    """Answers, and notes the headers of what it was asked."""

    def __init__(self) -> None:
        self.given: list[httpx.Headers] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.given.append(request.headers)
        return httpx.Response(200, json=answer(json.loads(request.content)))


def ask(service: Noting, kind: str) -> None:
    transport = httpx.MockTransport(service)
    if kind == "sync":
        with RewardClient("http://service", transport=transport, max_items_per_request=1) as client:
            assert len(client.score(ITEMS)) == len(ITEMS)
    else:

        async def score() -> None:
            async with AsyncRewardClient("http://service", transport=transport, max_items_per_request=1) as client:
                assert len(await client.score(ITEMS)) == len(ITEMS)

        asyncio.run(score())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_request_is_in_the_trace_of_its_caller(kind: str) -> None:
    service = Noting()
    with TracerProvider().get_tracer("trainer").start_as_current_span("step") as span:
        ask(service, kind)
    context = span.get_span_context()
    expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert [headers.get("traceparent") for headers in service.given] == [expected] * len(ITEMS)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_without_a_span_there_is_nothing_to_tell(kind: str) -> None:
    assert not trace.get_current_span().get_span_context().is_valid
    service = Noting()
    ask(service, kind)
    assert len(service.given) == len(ITEMS)
    assert not any("traceparent" in headers for headers in service.given)


def test_neither_importing_nor_asking_loads_what_the_caller_has_not_loaded() -> None:
    program = """
import json, sys, httpx
from app.client import RewardClient
from app.domain import Item, Message
model = {"revision": "r"}
usage = {"prompt_tokens": 1, "response_tokens": 1, "computed_tokens": 1}
result = {"scores": [1.0], "tokens": {"prompt": 1, "responses": [1]}, "truncated": False}
answer = {"results": [result], "usage": usage, "model": model}
transport = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
with RewardClient("http://service", transport=transport) as client:
    client.score([Item((Message("user", "a"),), ("b",))])
print([name for name in ("torch", "fastapi", "pydantic", "opentelemetry") if name in sys.modules])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
