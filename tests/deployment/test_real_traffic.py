"""Every query of the dashboard has an answer once a real Prometheus has scraped a real server under traffic."""

import json
import shutil
from collections.abc import Iterator

import httpx
import pytest

from app.serving.drift import WINDOW_SCORES
from benchmarks.dashboard.queries import Query, queries
from tests.api.fake_engine import FAIL, MAX_TOKENS, NAN
from tests.end_to_end.processes import PATIENCE_SECONDS, ServerProcess, server_process, wait_until
from tests.end_to_end.test_prometheus import prometheus, query

TURN = "<|start_header_id|>user<|end_header_id|>\n\nhello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
TWICE_BEGUN = "<|begin_of_text|><|begin_of_text|>" + TURN + "hi<|eot_id|>"
WINDOW = "2m"
"""Longer than the test: what a query sees is all that was scraped."""
NO_DATA_WITHOUT_CUDA = "armoserve_device_memory_bytes"

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def send(server: ServerProcess) -> None:
    """Call every route that scores, well and badly, with a window of scores for the drift."""
    responses = [letter * (1 + number) for number in range(16) for letter in "ab"]
    items = [{"prompt": f"prompt {number}", "responses": responses} for number in range(WINDOW_SCORES // 32)]
    with httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
        assert client.post("/score", json={"items": items, "priority": "bulk"}).status_code == 200
        for route in ("/score", "/objectives", "/moslim-classify"):
            assert client.post(route, json={"prompt": "p", "responses": ["yes", "no?", "longer"]}).status_code == 200
        long = {"prompt": "p" * MAX_TOKENS, "response": "r", "truncate": "prompt_left"}
        assert client.post("/score", json=long).json()["results"][0]["truncated"]
        assert client.post("/score/stream", content=json.dumps(items[0]) + "\n").status_code == 200
        assert client.post("/get_reward?template=llama3", json={"query": [TWICE_BEGUN]}).status_code == 200
        for broken in (NAN, FAIL):
            assert client.post("/score", json={"prompt": "p", "response": broken}).status_code == 500
        assert client.post("/score", json={"prompt": 1}).status_code == 422


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Scrape before, between and after two rounds of traffic: what a counter begins with is no rise."""
    folder = tmp_path_factory.mktemp("watched")
    with server_process("tests.end_to_end.serve_fake", [], folder / "log") as server:
        server.wait_ready()
        with prometheus(folder, server.url) as client:
            for number_of_round in (1, 2):
                send(server)
                answered = f'armoserve_requests_total{{route="/objectives"}} == {number_of_round}'
                wait_until(lambda expression=answered: query(client, expression) != [])
            yield client


def has_data(client: httpx.Client, asked: Query) -> bool:
    return any(row["value"][1] not in {"NaN", "+Inf", "-Inf"} for row in query(client, asked.asked(WINDOW)))


def test_every_query_of_the_dashboard_has_data(watched: httpx.Client) -> None:
    without = {one.expression for one in queries() if not has_data(watched, one)}
    assert without == {one.expression for one in queries() if NO_DATA_WITHOUT_CUDA in one.expression}


def values_of(client: httpx.Client, panel: str) -> list[float]:
    answers = [query(client, one.asked(WINDOW)) for one in queries() if one.panel == panel]
    return [float(rows[0]["value"][1]) for rows in answers]


def test_variables_choose(watched: httpx.Client) -> None:
    (scored,) = [one for one in queries() if one.panel == "Responses by revision"]
    (row,) = query(watched, scored.asked(WINDOW))
    revision = row["metric"]["revision"]
    here = {"namespace": ".*", "job": "armoserve", "revision": revision}
    assert query(watched, scored.asked(WINDOW, here)) != []
    for variable, value in (("revision", "another"), ("job", "another"), ("namespace", "another")):
        assert query(watched, scored.asked(WINDOW, here | {variable: value})) == []


def test_traffic_is_counted_where_it_belongs(watched: httpx.Client) -> None:
    assert sum(values_of(watched, "Shares of statuses")) == pytest.approx(1)
    assert min(values_of(watched, "Shares of statuses")) > 0
    shared, cached = values_of(watched, "Tokens spared")
    assert 0.1 < shared < 1  # 32 responses to one prompt
    assert cached == 0  # this engine has no prefix cache
