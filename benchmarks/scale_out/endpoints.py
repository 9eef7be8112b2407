"""Replicas behind nginx that come and go: who is not ready leaves its upstream, as Kubernetes' endpoints do."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import numpy as np

from benchmarks.scale_out.callers import NUM_TEXTS, Answer, item_of, native
from benchmarks.scale_out.nginx import Nginx
from benchmarks.scale_out.replicas import Replica, new_replica

PROBE_SECONDS: Final = 0.2
TOLERANCE: Final = 1e-4
"""The same text is in packs of many sizes."""


@dataclass
class Cluster:
    """Replicas, and the nginx that only knows those that are ready."""

    folder: Path
    nginx: Nginx
    replicas: list[Replica]
    new: Callable[[Path, Sequence[str]], Replica] = new_replica
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Revision → what it gives each text."""
    _num_started: int = 0

    async def keep_endpoints(self) -> None:
        """Ask every replica whether it is ready, and tell nginx of each change."""
        known: list[int] = []
        while True:
            asked = list(self.replicas)
            ready = await asyncio.gather(*(_is_ready(replica) for replica in asked))
            ports = [replica.port for replica, is_ready in zip(asked, ready, strict=True) if is_ready]
            if ports and ports != known:
                self.nginx.route_to(ports)
                known = ports
            await asyncio.sleep(PROBE_SECONDS)

    async def roll(self, settings: Sequence[str]) -> None:
        """Stop each replica in turn, and start another in its place."""
        for place, old in enumerate(list(self.replicas)):
            await old.stop()
            self._num_started += 1
            new = self.new(self.folder / f"new{self._num_started}", settings)
            await new.start()
            await self.learn(new)
            self.replicas[place] = new

    async def learn(self, replica: Replica) -> None:
        """Ask a replica alone for all scores of its revision, once."""
        body = {"items": [native(item_of(number)) for number in range(NUM_TEXTS)]}
        _, answer = await replica.post("/score", body)
        self.scores.setdefault(answer["model"]["revision"], tuple(result["scores"][0] for result in answer["results"]))

    def revision_of(self, answer: Answer) -> str | None:
        """Return the revision whose scores an answer holds; None where it is no single one, or not the one it names."""
        for revision, scores in self.scores.items():
            right = [scores[number] for number in answer.numbers]
            if np.abs(np.subtract(right, answer.scores)).max() <= TOLERANCE and answer.revision in ("", revision):
                return revision
        return None


async def _is_ready(replica: Replica) -> bool:
    try:
        return (await asyncio.wait_for(replica.ask("GET", "/readyz"), 5.0))[0] == httpx.codes.OK
    except OSError:
        return False
