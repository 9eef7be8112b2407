"""How late the event loop is while large requests are parsed, queued and answered.

    python -m benchmarks.loop_lag [--weights FOLDER] [--items 4096] [--rounds 3] [--only WORDS]

Each case is posted three times, one after the other; what is printed is how late the loop was meanwhile, at the median,
the 99th percentile and at most, in milliseconds, and the longest pause of the garbage collector, which stops every
thread. What a request computes is kept small, so that the rest shows. Another thread that computes in Python keeps the
interpreter for up to 5 ms (sys.getswitchinterval) before the loop has it back.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.server_process import WatchedServer


def cases(items: int) -> dict[str, tuple[str, Any]]:
    """Return path and body by name: many items, many responses, long texts, and a body at its limit."""
    short = [{"prompt": f"Question {number % 7}?", "responses": ["Yes."]} for number in range(items)]
    wide = [{"prompt": "Question?", "responses": [f"Answer {number}" for number in range(64)]}]
    texts = [f"<|im_start|>user\nQ{n % 7}?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n" for n in range(items)]
    rollouts = [{"prompt": "Question?", "responses": [f"Answer {number}" for number in range(1024)]}]
    too_long = [{"prompt": "word " * 1600, "responses": ["Yes."]} for _ in range(4000)]
    return {
        f"/score, {items} items": ("/score", {"items": short}),
        "/score, 1024 responses": ("/score", {"items": rollouts}),
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
        chosen = {name: case for name, case in cases(arguments.items).items() if arguments.only in name}
        for name, (path, body) in chosen.items():
            content = json.dumps(body).encode()
            began = time.monotonic()
            statuses = [(await server.ask("POST", path, content))[0] for _ in range(arguments.rounds)]
            ended = time.monotonic()
            measured = {"lag_ms": server.lags_ms(began, ended), "gc_ms": server.collections_ms(began, ended)}
            print(json.dumps({"case": name, "bytes": len(content), "statuses": statuses, **measured}), flush=True)
    finally:
        await server.stop()


def main() -> None:
    """Measure, and print a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="weights/default")
    parser.add_argument("--items", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="what the names of the cases hold")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(parser.parse_args(), Path(folder)))


if __name__ == "__main__":
    main()
