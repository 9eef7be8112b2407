"""Every metric, scraped by a real Prometheus and read back over its API."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.serving.drift import WINDOW_SCORES
from app.serving.metrics import METRICS
from benchmarks.dashboard.prometheus import started
from tests.api.fake_engine import NAN
from tests.end_to_end.processes import ServerProcess, server_process, wait_until

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
SUFFIX = {"counter": "", "gauge": "", "histogram": "_bucket", "summary": "_count"}
NOT_HERE = {"armoserve_device_memory_bytes"}
"""CUDA's alone."""

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[httpx.Client]:
    """Scrape a target every second, until the block ends."""
    with (
        started(folder, target.removeprefix("http://"), scrape_seconds=1) as url,
        httpx.Client(base_url=f"{url}/api/v1", timeout=30) as client,
    ):
        yield client


def query(client: httpx.Client, expression: str) -> list[dict[str, Any]]:
    try:
        answer = client.get("/query", params={"query": expression})
    except httpx.TransportError:  # it is starting
        return []
    result: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.status_code == 200 else []
    return result


def value(client: httpx.Client, expression: str) -> float | None:
    found = query(client, expression)
    return float(found[0]["value"][1]) if len(found) == 1 else None


def exposed(server: ServerProcess, series: str) -> float:
    (found,) = [one for one in httpx.get(server.url + "/metrics").text.splitlines() if one.startswith(series + " ")]
    return float(found.split()[-1])


def load(server: ServerProcess) -> dict[str, int]:
    """Fill both windows of the drift, and fail once; return the tokens that the answers name."""
    tokens = {"prompt": 0, "response": 0, "computed": 0}
    num_responses = 2 * WINDOW_SCORES // 32
    for batch in range(2):
        responses = [letter * (1 + number) for number in range(16) for letter in "ab"]
        items = [{"prompt": f"{batch} {n}", "responses": responses} for n in range(num_responses // 2)]
        answer = httpx.post(server.url + "/score", json={"items": items}, timeout=60).json()
        for kind in tokens:
            tokens[kind] += answer["usage"][f"{kind}_tokens"]
    broken = httpx.post(server.url + "/score", json={"prompt": "p", "response": NAN}, timeout=60)
    assert broken.status_code == 500
    return tokens


def test_every_metric_is_read_back(tmp_path: Path) -> None:
    with server_process("tests.end_to_end.serve_fake", [], tmp_path / "log") as server:
        server.wait_ready()
        tokens = load(server)
        with prometheus(tmp_path, server.url) as client:
            wait_until(lambda: value(client, 'armoserve_requests_total{route="/score",status="500"}') == 1)
            assert value(client, 'armoserve_requests_total{route="/score",status="200"}') == 2
            names = set(client.get("/label/__name__/values").json()["data"])
            assert {metric.name + SUFFIX[metric.kind] for metric in METRICS} - names == NOT_HERE
            of_the_nan = 2 + len("<user>p<assistant>")
            counted = {kind: value(client, f'armoserve_tokens_total{{kind="{kind}"}}') for kind in tokens}
            assert counted["computed"] == tokens["computed"] + of_the_nan
            assert counted["response"] == tokens["response"] + 2
            assert value(client, 'armoserve_failures_total{kind="nan"}') == 1
            assert value(client, "armoserve_score_count") == 2 * WINDOW_SCORES
            for series in ('armoserve_score_drift{against="previous"}', "armoserve_score_length_correlation"):
                assert value(client, series) == exposed(server, series)
            median = value(client, "histogram_quantile(0.5, armoserve_request_seconds_bucket{route='/score'})")
            assert median is not None
            assert median > 0
            (info,) = query(client, "armoserve_model_info")
            assert info["metric"]["name"] == "counting"
            kinds = client.get("/metadata").json()["data"]
            for metric in METRICS:
                (told,) = kinds[metric.name]
                assert (told["type"], told["help"]) == (metric.kind, metric.meaning)


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_finds_no_fault(tmp_path: Path) -> None:
    with server_process("tests.end_to_end.serve_fake", [], tmp_path / "log") as server:
        server.wait_ready()
        load(server)
        exposition = httpx.get(server.url + "/metrics", timeout=60).content
    checked = subprocess.run([str(PROMTOOL), "check", "metrics"], input=exposition, capture_output=True, check=False)
    faults = [line for line in checked.stderr.decode().splitlines() if line.startswith("armoserve_")]
    assert (faults, checked.stdout) == ([], b"")
