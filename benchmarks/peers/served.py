"""The engines behind HTTP, each in a process of its own: armoserve, and OpenRLHF's server loop."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.domain import Item
from benchmarks.peers.engines import BATCH_SIZE, Scored, padded_tokens
from benchmarks.peers.workloads import Request
from benchmarks.server_process import WatchedServer


@dataclass
class PeerServer(WatchedServer):
    """A server that is started by another command; `{port}` in it becomes the port."""

    command_line: Sequence[str] = field(default=(), kw_only=True)

    def command(self) -> list[str]:
        return [part.format(port=self.port) for part in self.command_line]

    @property
    def process_id(self) -> int:
        if self.process is None:
            raise RuntimeError("the server has not been started. This is a bug.")
        return self.process.pid

    async def answer(self, path: str, body: Any) -> Any:
        """Post JSON, and read JSON.

        Raises:
            SystemExit: a status that is not 200; a measurement with failures says nothing.
        """
        status, answer = await self.post(path, body)
        if status != 200:
            raise SystemExit(f"{path} answered {status}: {str(answer)[:500]}")
        return answer


@asynccontextmanager
async def running(folder: Path, command_line: Sequence[str]) -> AsyncIterator[PeerServer]:
    """Start a server, and stop it in the end; its log goes into the folder."""
    folder.mkdir(parents=True)
    server = PeerServer(folder, command_line=command_line)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def armoserve_command(weights: Path, *settings: str) -> list[str]:
    """Return what starts armoserve as `make serve` does, in float32."""
    fixed = ["--dtype", "float32", "--log-level", "warning", "--drain-delay-seconds", "0"]
    return [sys.executable, "-m", "app", "serve", "--weights", str(weights), "--port", "{port}", *fixed, *settings]


@dataclass(frozen=True, slots=True)
class ArmoserveServed:
    """armoserve's /score, all items in one request."""

    server: PeerServer
    name: str = "armoserve, served"

    @property
    def process_id(self) -> int:
        return self.server.process_id

    async def score(self, request: Request) -> Scored:
        answer = await self.server.answer("/score", {"items": [body_of(item) for item in request.items]})
        scores = [score for result in answer["results"] for score in result["scores"]]
        return Scored(scores, answer["usage"]["computed_tokens"])

    async def score_singly(self, request: Request) -> Scored:
        """Send every response in a request of its own, all in flight together."""
        bodies = [body_of(Item(item.prompt, (one,))) for item in request.items for one in item.responses]
        answers = await asyncio.gather(*(self.server.answer("/score", body) for body in bodies))
        scores = [answer["results"][0]["scores"][0] for answer in answers]
        return Scored(scores, sum(answer["usage"]["computed_tokens"] for answer in answers))


@dataclass(frozen=True, slots=True)
class OpenRlhfServed:
    """OpenRLHF's server loop, all queries in one request."""

    server: PeerServer
    name: str = "OpenRLHF's server loop"

    @property
    def process_id(self) -> int:
        return self.server.process_id

    async def score(self, request: Request) -> Scored:
        answer = await self.server.answer("/get_reward", {"query": list(request.texts)})
        return Scored(answer["rewards"], padded_tokens(request.lengths))

    async def score_singly(self, request: Request) -> Scored:
        """Send every query in a request of its own, all in flight together, as OpenRLHF does since 0.9.1."""
        posts = (self.server.answer("/get_reward", {"query": [text]}) for text in request.texts)
        answers = await asyncio.gather(*posts)
        return Scored([answer["rewards"][0] for answer in answers], request.num_tokens)


@asynccontextmanager
async def served_peers(folder: Path, weights: Path) -> AsyncIterator[tuple[ArmoserveServed, OpenRlhfServed]]:
    """Start both servers for these weights."""
    loop = [sys.executable, "-m", "benchmarks.peers.openrlhf_server", str(weights), "{port}", str(BATCH_SIZE)]
    async with (
        running(folder / "armoserve", armoserve_command(weights)) as armoserve,
        running(folder / "openrlhf", loop) as openrlhf,
    ):
        yield ArmoserveServed(armoserve), OpenRlhfServed(openrlhf)


def body_of(item: Item) -> dict[str, Any]:
    """Return an item as the service takes it."""
    prompt = [{"role": message.role, "content": message.content} for message in item.prompt]
    return {"prompt": prompt, "responses": list(item.responses)}
