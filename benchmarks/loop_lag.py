"""How late the event loop is while large requests are parsed, queued and answered.

    python -m benchmarks.loop_lag [--weights FOLDER] [--items 4096]

Each case is posted three times, one after the other; what is printed is how late the loop was meanwhile, at the median,
the 99th percentile and at most, in milliseconds. What a request computes is kept small, so that the rest shows.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.server_process import WatchedServer

ROUNDS = 3


def cases(items: int) -> dict[str, tuple[str, Any]]:
    """Return path and body by name: many items, many responses, long texts, and a body at its limit."""
    short = [{"prompt": f"Question {number % 7}?", "responses": ["Yes."]} for number in range(items)]
    wide = [{"prompt": "Question?", "responses": [f"Answer {number}" for number in range(64)]}]
    texts = [f"<|im_start|>user\nQ{n % 7}?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n" for n in range(items)]
    too_long = [{"prompt": "word " * 1600, "responses": ["Yes."]} for _ in range(4000)]
    return {
        f"/score, {items} items": ("/score", {"items": short}),
        f"/objectives, {items // 8} items": ("/objectives", {"items": short[: items // 8]}),
        "/objectives, 64 responses": ("/objectives", {"items": wide}),
        "/objectives, 32 items of 64 responses": ("/objectives", {"items": wide * 32}),
        f"/get_reward, {items} texts": ("/get_reward?template=chatml", {"query": texts}),
        "/score, 31 MiB of items that are too long": ("/score", {"items": too_long}),
        "/score, 31 MiB that fit no schema": (
            "/score",
            {"items": [{"prompt": [1.5] * 9, "response": ["x" * 7900]}] * 4000},
        ),
    }


async def measure(arguments: argparse.Namespace, folder: Path) -> None:
    server = WatchedServer(folder, ["--weights", arguments.weights, "--drain-delay-seconds", "0"])
    await server.start()
    try:
        for name, (path, body) in cases(arguments.items).items():
            content = json.dumps(body).encode()
            began = time.monotonic()
            statuses = [(await server.ask("POST", path, content))[0] for _ in range(ROUNDS)]
            lags = server.lags_ms(began, time.monotonic())
            print(json.dumps({"case": name, "bytes": len(content), "statuses": statuses, "lag_ms": lags}), flush=True)
    finally:
        await server.stop()


def main() -> None:
    """Measure, and print a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="weights/default")
    parser.add_argument("--items", type=int, default=4096)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
