"""A mixed load of small requests: trainers and people, good texts and bad, and for a while more than is computed.

Every kind of call that a panel of the dashboard counts is among it, save failures of the model.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx

from benchmarks.peers.texts import Prose

SETTINGS: Final = {
    "max-conversation-tokens": "512",
    "max-pack-tokens": "1024",
    "max-queued-tokens": "12000",
    "prefix-cache-bytes": str(2**20),
}
"""Small, so that a small load truncates, fills the queue, and has the cache drop something."""
NUM_PROMPTS: Final = 40
FLOOD_ITEMS: Final = 60
TURN: Final = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"


@dataclass(frozen=True, slots=True)
class Caller:
    """What one caller does again and again, how long it rests between, and from when to when, in shares of the time."""

    call: Callable[[], Awaitable[object]]
    rest_seconds: float
    begin: float = 0.0
    end: float = 1.0


class Traffic:
    """The callers of one server. The same texts in each run; when they come varies a little."""

    def __init__(self, client: httpx.AsyncClient, prose: Prose) -> None:
        self._client, self._random = client, random.Random(0)  # noqa: S311 - a load, no secret
        self._prompts = prose.texts([self._random.randint(20, 60) for _ in range(NUM_PROMPTS)])
        self._responses = prose.texts([self._random.randint(5, 40) for _ in range(500)])
        self._long = prose.texts([700])[0]

    async def run(self, seconds: float) -> None:
        """Have all callers call for so long."""
        callers = (
            Caller(self.best_of_8, 0.3),
            Caller(self.best_of_8, 0.5),
            Caller(self.explain, 1.0),
            Caller(self.classify, 0.7),
            Caller(self.trainer, 0.8, 0.1, 0.9),
            Caller(self.rerank, 2.0),
            Caller(self.intensities, 2.0),
            Caller(self.malformed, 3.0),
            Caller(self.truncated, 2.5, 0.2, 0.8),
            Caller(self.bulk, 0.2, 0.3, 0.6),
            Caller(self.impatient, 0.7, 0.35, 0.6),
            Caller(self.leaving, 0.9, 0.35, 0.6),
            *(Caller(self.flood, 2.0, 0.75, 0.85) for _ in range(4)),
        )
        await asyncio.gather(*(self._repeat(caller, seconds) for caller in callers))

    async def _repeat(self, caller: Caller, seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + caller.end * seconds
        await asyncio.sleep(caller.begin * seconds)
        while clock() < end:
            with suppress(httpx.TransportError):  # it left, as it should
                await caller.call()
            await asyncio.sleep(self._random.expovariate(1 / caller.rest_seconds))

    def _item(self, num_responses: int) -> dict[str, Any]:
        prompt = self._prompts[min(int(self._random.expovariate(0.1)), NUM_PROMPTS - 1)]  # some come again and again
        return {"prompt": prompt, "responses": self._random.sample(self._responses, num_responses)}

    def _rollout(self, beginning: str) -> str:
        item = self._item(1)
        prompt = TURN.format("user", item["prompt"]) + TURN.format("assistant", "").removesuffix("<|eot_id|>")
        return f"{beginning}{prompt}{item['responses'][0]}"

    async def _post(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None, seconds: float = 60.0
    ) -> None:
        await self._client.post(path, json=body, headers=headers, timeout=seconds)

    async def best_of_8(self) -> None:
        """Ask for one prompt's best response."""
        await self._post("/score", self._item(8))

    async def explain(self) -> None:
        """Ask for a response's objectives."""
        await self._post("/objectives", self._item(2))

    async def intensities(self) -> None:
        """Ask for intensities."""
        await self._post("/moslim-classify", self._item(1))

    async def classify(self) -> None:
        """Ask as verl does, with closed responses."""
        texts = [self._rollout("<|begin_of_text|>") + "<|eot_id|>" for _ in range(2)]
        await self._post("/classify?template=llama3", {"model": "reward", "input": texts})

    async def trainer(self) -> None:
        """Ask as OpenRLHF does, some texts begun twice and none closed."""
        texts = [self._rollout("<|begin_of_text|>" * self._random.choice((1, 1, 2))) for _ in range(4)]
        await self._post("/get_reward?template=llama3", {"query": texts})

    async def rerank(self) -> None:
        """Ask for an order."""
        item = self._item(4)
        await self._post("/rerank", {"query": item["prompt"], "documents": item["responses"]})

    async def malformed(self) -> None:
        """Make a mistake."""
        await self._post("/score", {"prompt": 1})

    async def truncated(self) -> None:
        """Send a prompt that is too long, and have it cut."""
        await self._post("/score", {"prompt": self._long, "response": "Yes.", "truncate": "prompt_left"})

    async def bulk(self) -> None:
        """Send many items that can wait."""
        await self._post("/score", {"items": [self._item(2) for _ in range(40)], "priority": "bulk"})

    async def impatient(self) -> None:
        """Want an answer sooner than it comes."""
        await self._post("/score", self._item(2), {"X-Timeout-Ms": "20"})

    async def leaving(self) -> None:
        """Leave before the answer."""
        await self._post("/score", self._item(4), seconds=0.03)

    async def flood(self) -> None:
        """Send more than there is room for."""
        await self._post("/score", {"items": [self._item(4) for _ in range(FLOOD_ITEMS)]})
