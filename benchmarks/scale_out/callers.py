"""Callers under whom replicas are replaced: our client and a trainer's plain posts, which try nothing twice."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from app.client import AsyncRewardClient, ItemError
from app.domain import Item, Message
from app.errors import ArmoserveError

CALLERS: Final = 3
"""Of each kind."""
NUM_TEXTS: Final = 40
ITEMS_AT_ONCE: Final = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: what it was about, when it began, how long it took; scores, and the revision that it names."""

    kind: str
    began: float
    seconds: float
    numbers: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    revision: str = ""
    failure: str = ""


@dataclass
class Load:
    """Callers that ask without a pause and try nothing twice."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    is_over: bool = False

    async def run(self) -> None:
        """Ask until it is over."""
        async with (
            AsyncRewardClient(self.url, max_in_flight=CALLERS, retry_seconds=0) as client,
            httpx.AsyncClient(base_url=self.url, timeout=120) as trainer,
        ):
            ours = (self._ours(client, place) for place in range(CALLERS))
            await asyncio.gather(*ours, *(self._trainers(trainer, place) for place in range(CALLERS)))

    async def _ours(self, client: AsyncRewardClient, place: int) -> None:
        number = place
        while not self.is_over:
            numbers = tuple((number + step) % NUM_TEXTS for step in range(ITEMS_AT_ONCE))
            number += CALLERS
            began = time.monotonic()
            try:
                results = await client.score([item_of(one) for one in numbers])
            except ArmoserveError as error:
                self._failed("client", began, error)
                continue
            good = [one.scores[0] for one in results if not isinstance(one, ItemError) and one.scores]
            failure = "" if len(good) == len(numbers) else "an item has no score"
            took = time.monotonic() - began
            self.answers.append(Answer("client", began, took, numbers, tuple(good), failure=failure))

    async def _trainers(self, client: httpx.AsyncClient, place: int) -> None:
        number = place
        while not self.is_over:
            number = (number + CALLERS) % NUM_TEXTS
            began = time.monotonic()
            try:
                answer = await client.post("/get_reward", json=body_of(item_of(number)))
                answer.raise_for_status()
                score = float(answer.json()["score"])
            except (httpx.HTTPError, ValueError) as error:
                self._failed("trainer", began, error)
                continue
            took, revision = time.monotonic() - began, answer.headers["x-model-revision"]
            self.answers.append(Answer("trainer", began, took, (number,), (score,), revision))

    def _failed(self, kind: str, began: float, error: Exception) -> None:
        failure = f"{type(error).__name__}: {error}"
        self.answers.append(Answer(kind, began, time.monotonic() - began, failure=failure))


def item_of(number: int) -> Item:
    """Return an item, short or long by its number."""
    question = f"Question {number}: " + f"what is to be said of number {number}? " * (1 + number % 5)
    return Item((Message("user", question),), (f"Of {number} " + f"{number} things are known. " * (1 + number % 7),))


def body_of(item: Item) -> dict[str, Any]:
    """Return an item in slime's wire format."""
    return {"prompt": native(item)["prompt"], "response": item.responses[0]}


def native(item: Item) -> dict[str, Any]:
    turns = [{"role": message.role, "content": message.content} for message in item.prompt]
    return {"prompt": turns, "responses": list(item.responses)}
