"""Draw the dashboard's panels from real traffic: a server under a mixed load, and a Prometheus that scrapes it.

    python -m benchmarks.dashboard [--minutes 4] [--weights FOLDER] [--out FILE.png]

Grafana draws the same panels from the same queries; this needs Prometheus and matplotlib only.
"""

import argparse
import asyncio
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.dashboard.drawing import DrawnPanel, draw
from benchmarks.dashboard.prometheus import SCRAPE_SECONDS, over_time, prometheus
from benchmarks.dashboard.queries import ROOT, dashboard, queries_of
from benchmarks.dashboard.traffic import SETTINGS, Traffic
from benchmarks.peers.texts import Prose
from benchmarks.server_process import WatchedServer

RATE_INTERVAL = f"{8 * SCRAPE_SECONDS}s"


async def measure(seconds: float, weights: Path, folder: Path) -> dict[str, list[DrawnPanel]]:
    """Load a server for so long, and return what every panel shows of it, by row."""
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
    server = WatchedServer(folder, ["--weights", str(weights), *flags])
    await server.start()
    try:
        address = f"127.0.0.1:{server.port}"
        limits = httpx.Limits(max_keepalive_connections=0)  # a caller who leaves takes no other's connection
        async with (
            prometheus(folder, address) as scraped,
            httpx.AsyncClient(base_url=f"http://{address}", limits=limits) as client,
        ):
            begin = time.time()
            await Traffic(client, Prose(weights)).run(seconds)
            await asyncio.sleep(3 * SCRAPE_SECONDS)
            return await shown(scraped, begin, time.time())
    finally:
        await server.stop()


async def shown(scraped: httpx.AsyncClient, begin: float, end: float) -> dict[str, list[DrawnPanel]]:
    """Ask every query of the dashboard."""
    rows: dict[str, list[DrawnPanel]] = {}
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            rows[panel["title"]] = drawn = []
        else:
            drawn.append(DrawnPanel(panel, await lines_of(scraped, panel, begin, end)))
    return rows


async def lines_of(
    scraped: httpx.AsyncClient, panel: Mapping[str, Any], begin: float, end: float
) -> dict[str, list[tuple[float, float]]]:
    """Return a panel's lines by name, as Grafana names them; a table's by all their labels."""
    lines = {}
    for query in queries_of(panel):
        for found in await over_time(scraped, query.asked(RATE_INTERVAL), begin, end):
            labels = found["metric"]
            name = (
                query.name(labels)
                if panel["type"] != "table"
                else "\n".join(f"{label}: {value}" for label, value in labels.items())
            )
            lines[name] = [(t, float(v)) for t, v in found["values"] if math.isfinite(float(v))]
    return {name: points for name, points in lines.items() if points}


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights" / "default")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "dashboard.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(60 * options.minutes, options.weights, Path(folder)))
    draw(options.out, f"armoserve: {options.minutes:g} minutes of a mixed load, time in minutes", rows)
    empty = [drawn.panel["title"] for panels in rows.values() for drawn in panels if not drawn.lines]
    print(f"wrote {options.out}; panels without data: {', '.join(empty) or 'none'}")


if __name__ == "__main__":
    main()
