"""What comes out of HTTP equals the one-by-one reference to 1e-4 of the spread: 100 real conversations, three ways.

The checkpoint is random, in the published layout, with the real Llama 3 tokenizer; the server is the real
application, from JSON to JSON, with its queue, its packs and its engine thread.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from app.main import create_app, load_engine
from app.settings import Settings
from tests.checkpoints import write_armorm
from tests.equivalence.conversations import Conversation, best_of_n, real_conversations
from tests.equivalence.reference import Floats, OneByOne, Reference

FIELDS = ("reward", "gating", "coefficient", "contribution")
TOLERANCE = 1e-4

AgainstServer = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Expected:
    """Conversations, what the reference says of each, and how far apart its scores lie."""

    conversations: list[Conversation]
    references: list[Reference]

    @property
    def spread(self) -> float:
        return float(np.std([reference.score for reference in self.references]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, llama3_tokenizer_folder: Path) -> Path:
    return write_armorm(tmp_path_factory.mktemp("armorm"), llama3_tokenizer_folder)


@pytest.fixture(scope="module")
def reference(folder: Path) -> OneByOne:
    return OneByOne(folder, attention="sdpa")


@pytest.fixture(scope="module")
def expected(reference: OneByOne, shared_data: Path) -> Expected:
    conversations = real_conversations(shared_data)
    return Expected(conversations, [reference(entry.prompt, entry.response) for entry in conversations])


@pytest.fixture(scope="module")
def expected_groups(reference: OneByOne, shared_data: Path) -> list[tuple[dict[str, Any], list[Reference]]]:
    return [
        ({"prompt": prompt, "responses": responses}, [reference(prompt, response) for response in responses])
        for prompt, responses in best_of_n(shared_data, prompts=20)
    ]


@pytest.fixture(scope="module")
def against_server(folder: Path) -> AgainstServer:
    """Give a function that runs work against the started application; the weights are loaded once."""
    engine = load_engine(settings_of(folder))

    def run(work: Callable[[httpx.AsyncClient], Awaitable[None]], **changes: Any) -> None:
        asyncio.run(serve_and_work(create_app(settings_of(folder, **changes), lambda _: engine), work))

    return run


def settings_of(folder: Path, **changes: Any) -> Settings:
    return Settings(weights=str(folder), device="cpu", dtype="float32", **changes)


async def serve_and_work(app: FastAPI, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://armoserve") as client:
            async with asyncio.timeout(60):
                while (await client.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.02)
            await work(client)


async def ask(client: httpx.AsyncClient, route: str, **body: Any) -> dict[str, Any]:
    answer = await client.post(route, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def column(response: dict[str, Any], field: str) -> Floats:
    return np.array([objective[field] for objective in response["objectives"]], dtype=np.float64)


def assert_equal(response: dict[str, Any], wanted: Reference, spread: float) -> None:
    """Hold one response of /objectives to the reference, and its contributions to its score."""
    assert abs(response["score"] - wanted.score) < TOLERANCE * spread
    for field, values in zip(
        FIELDS, (wanted.rewards, wanted.gating, wanted.coefficients, wanted.contributions), strict=True
    ):
        assert values is not None
        assert np.abs(column(response, field) - values).max() < TOLERANCE * spread, field
    contributions = column(response, "contribution")
    assert abs(contributions.sum() - response["score"]) < 1e-5 * np.abs(contributions).sum()
    natives = [objective["native"] for objective in response["objectives"]]
    assert np.allclose(natives[:5], wanted.rewards[:5] * 5 - 0.5, atol=5 * TOLERANCE * spread)
    assert natives[5:] == [None] * 14


def test_the_reference_tells_texts_apart(expected: Expected) -> None:
    """Without this the parity below could hold of a model that says the same of everything."""
    assert expected.spread > 0.1
    for values in ([entry.rewards for entry in expected.references], [entry.gating for entry in expected.references]):
        assert np.std(values, axis=0).max() > 0.05
    lengths = [len(entry.token_ids) for entry in expected.references]
    assert min(lengths) < 100
    assert max(lengths) > 7000
    assert {entry.kind for entry in expected.conversations} > {"multi-turn", "system", "code", "long", "very long"}


def test_each_conversation_alone(against_server: AgainstServer, expected: Expected) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        for conversation, wanted in zip(expected.conversations, expected.references, strict=True):
            messages = [*conversation.prompt, {"role": "assistant", "content": conversation.response}]
            explained = await ask(client, "/objectives", messages=messages)
            assert_equal(explained["results"][0]["responses"][0], wanted, expected.spread)
            tokenized = await ask(client, "/tokenize", messages=messages)
            shown = tokenized["results"][0]["responses"][0]
            assert shown["token_ids"] == wanted.token_ids, conversation.kind
            assert shown["gating_index"] == wanted.gating_index

    against_server(work)


def test_best_of_n_in_one_request(
    against_server: AgainstServer, expected: Expected, expected_groups: Sequence[tuple[dict[str, Any], list[Reference]]]
) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        items = [item for item, _ in expected_groups]
        explained = await ask(client, "/objectives", items=items)
        scored = await ask(client, "/score", items=items)
        assert scored["usage"]["computed_tokens"] < sum(
            len(entry.token_ids) for _, references in expected_groups for entry in references
        )
        for (_, references), result, scores in zip(
            expected_groups, explained["results"], scored["results"], strict=True
        ):
            for response, score, wanted in zip(result["responses"], scores["scores"], references, strict=True):
                assert_equal(response, wanted, expected.spread)
                assert abs(score - wanted.score) < TOLERANCE * expected.spread
            assert scores["best"] == int(np.argmax([wanted.score for wanted in references]))

    against_server(work)


def test_shuffled_under_concurrency(
    against_server: AgainstServer,
    expected: Expected,
    expected_groups: Sequence[tuple[dict[str, Any], list[Reference]]],
) -> None:
    """All at once, in random order, singles among groups: whatever a pack holds, each gets its own numbers."""
    requests: list[tuple[dict[str, Any], list[Reference]]] = [
        ({"prompt": entry.prompt, "response": entry.response}, [wanted])
        for entry, wanted in zip(expected.conversations, expected.references, strict=True)
    ]
    requests += expected_groups
    random.Random(0).shuffle(requests)

    async def work(client: httpx.AsyncClient) -> None:
        async def one(number: int, body: dict[str, Any], references: list[Reference]) -> None:
            priority = "bulk" if number % 3 == 0 else "interactive"
            explained = await ask(client, "/objectives", priority=priority, **body)
            for response, wanted in zip(explained["results"][0]["responses"], references, strict=True):
                assert_equal(response, wanted, expected.spread)

        await asyncio.gather(*(one(number, body, wanted) for number, (body, wanted) in enumerate(requests)))
        metrics = (await client.get("/metrics")).text
        packs = next(line for line in metrics.splitlines() if line.startswith("armoserve_pack_tokens_count"))
        assert float(packs.split()[-1]) < len(requests), "the requests were never packed together"

    against_server(work, max_pack_tokens=8192)


def test_a_wrong_number_is_noticed(against_server: AgainstServer, expected: Expected) -> None:
    """The negative control: another conversation's numbers do not pass for this one's."""

    async def work(client: httpx.AsyncClient) -> None:
        conversation, other = expected.conversations[0], expected.references[1]
        explained = await ask(client, "/objectives", prompt=conversation.prompt, response=conversation.response)
        with pytest.raises(AssertionError):
            assert_equal(explained["results"][0]["responses"][0], other, expected.spread)

    against_server(work)
