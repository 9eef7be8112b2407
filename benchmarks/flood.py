"""Trainers' floods: single-item posts to /get_reward, each over a connection of its own, a thousand at a time.

    python -m benchmarks.flood [--requests 5000] [--in-flight 1000] [--weights FOLDER] [--port-closes]

Twice: each post once, where anything but its right reward is a failure; and by OpenRLHF's rules (5 tries, 1 s apart,
180 s each) while the service is stopped in the middle and started anew, where a sample without a reward is lost. The
port stays open between the two, as docs/operations.md advises; or closes, for as long as the first finishes what is
inside and the second takes to come up, which the tries must outlast.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_process import WatchedServer

NUM_TEXTS = 50
TOLERANCE = 1e-3
"""The same text is in packs of many sizes: as much as float32 sums differ by, and less than texts do."""
TRIES, PAUSE_SECONDS, PATIENCE_SECONDS = 5, 1.0, 180.0


@dataclass
class Flood:
    """Posts samples, and remembers what came of them."""

    server: WatchedServer
    requests: int
    in_flight: int
    tries: int
    rewards: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    num_lost: int = 0
    num_answered: int = 0

    async def run(self) -> dict[str, Any]:
        """Post them all; return the figures."""
        self.rewards = [await self._reward(number) for number in range(NUM_TEXTS)]
        places = asyncio.Semaphore(self.in_flight)

        async def sample(number: int) -> None:
            async with places:
                await self._sample(number)

        began = time.monotonic()
        await asyncio.gather(*(sample(number) for number in range(self.requests)))
        ended = time.monotonic()
        return {
            "requests": self.requests,
            "in_flight": self.in_flight,
            "lost": self.num_lost,
            "failed_tries": dict(self.faults),
            "requests_per_second": round(self.num_answered / (ended - began), 1),
            "seconds_p50": round(float(np.percentile(self.seconds, 50)), 3),
            "seconds_p99": round(float(np.percentile(self.seconds, 99)), 3),
            "loop_lag_ms": self.server.lags_ms(began, ended),
        }

    async def _sample(self, number: int) -> None:
        began = time.monotonic()
        for attempt in range(self.tries):
            if attempt:
                await asyncio.sleep(PAUSE_SECONDS)
            try:
                reward = await asyncio.wait_for(self._reward(number), PATIENCE_SECONDS)
            except (OSError, TimeoutError, ValueError) as error:
                self.faults[str(error) if isinstance(error, ValueError) else type(error).__name__] += 1
                continue
            if abs(reward - self.rewards[number % NUM_TEXTS]) > TOLERANCE:
                self.faults["another's reward"] += 1
                break
            self.num_answered += 1
            self.seconds.append(time.monotonic() - began)
            return
        self.num_lost += 1

    async def _reward(self, number: int) -> float:
        number %= NUM_TEXTS
        prompt = f"<|im_start|>user\nQuestion {number}?<|im_end|>\n<|im_start|>assistant\n"
        body = {"query": [f"{prompt}Answer {'x ' * number}<|im_end|>\n"], "prompts": [prompt], "labels": [None]}
        status, answer = await self.server.post("/get_reward?template=chatml", body)
        if status != 200:
            raise ValueError(f"{status} {answer['type']}")
        return float(answer["rewards"][0])


async def restart_in_the_middle(flood: Flood) -> None:
    """Stop the service once a third has been answered, and start another in its place."""
    while flood.num_answered < flood.requests // 3:
        await asyncio.sleep(0.05)
    await flood.server.stop()
    await flood.server.start()


async def measure(arguments: argparse.Namespace, folder: Path) -> None:
    settings = ["--weights", arguments.weights, "--drain-delay-seconds", "0"]
    server = WatchedServer(folder, settings, keeps_port=not arguments.port_closes)
    await server.start()
    try:
        once = await Flood(server, arguments.requests, arguments.in_flight, tries=1).run()
        print(json.dumps({"once": once}))
        flood = Flood(server, arguments.requests, arguments.in_flight, TRIES)
        restarted, _ = await asyncio.gather(flood.run(), restart_in_the_middle(flood))
        print(json.dumps({"restarted": restarted}))
    finally:
        await server.stop()


def main() -> None:
    """Measure, and print a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=1000)
    parser.add_argument("--weights", default="weights/default")
    parser.add_argument("--port-closes", action="store_true")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
