"""What a policy's training asks of a reward service, and how long it waits: GRPO's groups, a response a request.

A step draws some prompts, and each of their responses is a request of its own, in the order in which they happened to
end. Every epoch all prompts come back, with new responses.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.client import AsyncRewardClient, ItemError
from app.domain import Item, Message


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of what is asked."""

    prompts: int = 32
    responses: int = 4
    epochs: int = 3
    prompts_per_step: int = 8
    prompt_tokens: int = 200
    response_tokens: int = 40
    in_flight: int = 8
    remembered_share: float = 0.4
    """Of the prompts, that fit into the cache of one replica."""

    @property
    def requests(self) -> int:
        return self.prompts * self.responses * self.epochs


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of it: a score and a waiting time per request, and the time of all."""

    scores: tuple[float, ...]
    seconds: tuple[float, ...]
    total_seconds: float


def items_of(shape: Shape, texts_of: Callable[[list[int]], list[str]]) -> list[Item]:
    """Return the items in the order in which they are asked about; `texts_of` makes texts of so many tokens."""
    prompts = [(Message("user", text),) for text in texts_of([shape.prompt_tokens] * shape.prompts)]
    chance = random.Random(0)  # noqa: S311 - not for secrets
    items: list[Item] = []
    for _ in range(shape.epochs):
        chance.shuffle(prompts)
        for start in range(0, shape.prompts, shape.prompts_per_step):
            drawn = prompts[start : start + shape.prompts_per_step] * shape.responses
            responses = texts_of([shape.response_tokens] * len(drawn))
            step = [Item(prompt, (response,)) for prompt, response in zip(drawn, responses, strict=True)]
            chance.shuffle(step)
            items += step
    return items


async def send(url: str, items: Sequence[Item], in_flight: int) -> Sent:
    """Ask about each item in a request of its own; none is tried a second time.

    Raises:
        ServiceUnreachable, RequestRefused, BadAnswer: of the first request that failed.
    """
    places = asyncio.Semaphore(in_flight)
    async with AsyncRewardClient(url, max_in_flight=in_flight, retry_seconds=0) as client:

        async def ask(item: Item) -> tuple[float, float]:
            async with places:
                began = time.monotonic()
                (result,) = await client.score([item])
                took = time.monotonic() - began
            if isinstance(result, ItemError) or result.scores is None:
                raise SystemExit(f"an item has no score: {result}")
            return result.scores[0], took

        began = time.monotonic()
        answered = await asyncio.gather(*(ask(item) for item in items))
        total_seconds = time.monotonic() - began
    scores, seconds = zip(*answered, strict=True)
    return Sent(scores, seconds, total_seconds)
