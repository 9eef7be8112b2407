"""A Prometheus of its own that scrapes one server, and is asked over its API."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

SCRAPE_SECONDS: Final = 2
START_SECONDS: Final = 60


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """Scrape HOST:PORT until the block ends; yields a client of the API."""
    with started(folder, target, SCRAPE_SECONDS) as url:
        async with httpx.AsyncClient(base_url=url, timeout=START_SECONDS) as client:
            await _wait_ready(client)
            yield client


@contextmanager
def started(folder: Path, target: str, scrape_seconds: int) -> Iterator[str]:
    """Run a Prometheus that scrapes HOST:PORT until the block ends; yields its URL, which may not answer yet."""
    program = shutil.which("prometheus")
    if program is None:
        raise SystemExit("prometheus is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    scrape = {"job_name": "armoserve", "static_configs": [{"targets": [target]}]}
    config = folder / "prometheus.yml"  # JSON is YAML
    config.write_text(json.dumps({"global": {"scrape_interval": f"{scrape_seconds}s"}, "scrape_configs": [scrape]}))
    flags = [f"--config.file={config}", f"--web.listen-address={address}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([program, *flags], stdout=log, stderr=log)  # noqa: S603 - fixed arguments
    try:
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


async def _wait_ready(client: httpx.AsyncClient) -> None:
    for _ in range(10 * START_SECONDS):
        try:
            if (await client.get("/-/ready")).is_success:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("prometheus did not start")


async def over_time(client: httpx.AsyncClient, expression: str, begin: float, end: float) -> list[dict[str, Any]]:
    """Return each series of a query between two Unix times: its labels, `metric`, and its `values`."""
    span: dict[str, str | float] = {"query": expression, "start": begin, "end": end, "step": SCRAPE_SECONDS}
    answer = await client.get("/api/v1/query_range", params=span)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found
