import logging
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api.server import DrainingServer
from app.domain import ModelInfo
from app.engine import Engine
from app.errors import InvalidSetting, InvalidWeights
from app.main import serve
from app.settings import Settings, read_settings
from tests.api.fake_engine import FAIL, GATED, HEADS, HOLD, OBJECTIVES, POISON, UNGATED, FakeEngine
from tests.api.serving import Served, serving, wait_until

GOOD = {"prompt": "Say something", "response": "aei? bcd"}


def test_alive_and_ready(served: Served) -> None:
    assert served.client.get("/livez").json() == {"status": "alive"}
    assert served.client.get("/readyz").json() == {"status": "ready"}


def test_info_tells_what_is_served(served: Served) -> None:
    info = served.client.get("/info").json()
    assert info["model"]["name"] == "counting"
    assert info["model"]["has_gating"] is True
    assert [objective["name"] for objective in info["objectives"]] == [one.name for one in OBJECTIVES]
    assert info["objectives"][0]["native"] == {"slope": 100.0, "intercept": 0.0}
    assert info["objectives"][0]["has_reference"] is True
    assert info["objectives"][1] == {
        "name": "vowels",
        "description": "vowels of the response",
        "source": "counted",
        "native": None,
        "has_reference": False,
    }
    assert info["heads"] == [
        {"name": head.name, "classes": head.classes, "statistics": head.statistics} for head in HEADS
    ]
    assert info["composites"] == {"talkative": {"length": 0.5, "vowels": 0.5}}
    assert info["limits"] == {"max_conversation_tokens": 400, "max_body_bytes": 32 * 2**20, "max_items": 64}
    assert {"armoserve", "python", "torch", "transformers"} <= set(info["versions"])


def test_requests_are_counted_by_route_and_status(served: Served) -> None:
    def count(route: str, status: str) -> float:
        return served.metric("armoserve_requests_total", route=route, status=status)

    before = [count("/score", "200"), count("/score", "422"), count("other", "404")]
    served.post("/score", GOOD)
    served.post("/score", {})
    served.client.get("/any/thing/goes?here")
    assert [count("/score", "200"), count("/score", "422"), count("other", "404")] == [one + 1 for one in before]


def test_metrics_are_prometheus_text(served: Served) -> None:
    served.post("/score", GOOD)
    response = served.client.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert {"armoserve_requests", "armoserve_score", "armoserve_model_info", "process_cpu_seconds"} <= set(families)
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/info", "/docs", "/docs/start.js", "/metrics", "/openapi.json"])
def test_head_is_get_without_the_body(served: Served, path: str) -> None:
    got, head = served.client.get(path), served.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert served.client.head("/score").status_code == 405


class TestRequestIds:
    def test_the_callers_own_comes_back(self, served: Served) -> None:
        response = served.post("/score", GOOD, headers={"X-Request-Id": "run-7/step:12"})
        assert response.headers["x-request-id"] == "run-7/step:12"

    @pytest.mark.parametrize("given", [None, "", "two words", "x" * 129, "<script>", "a\tb"])
    def test_else_each_request_gets_its_own(self, served: Served, given: str | None) -> None:
        headers = {} if given is None else {"X-Request-Id": given}
        ids = {served.post("/score", GOOD, headers=headers).headers["x-request-id"] for _ in range(3)}
        assert len(ids) == 3
        assert given not in ids


class TestLoading:
    def test_the_port_is_open_while_weights_load(self) -> None:
        may_load = threading.Event()
        fake = FakeEngine()

        def load(_: Settings) -> Engine:
            may_load.wait(30)
            return fake.engine()

        with serving(fake, load) as running:
            assert running.client.get("/livez").status_code == 200
            assert running.client.get("/docs").status_code == 200
            assert running.client.get("/openapi.json").status_code == 200
            assert running.client.get("/metrics").status_code == 200
            for path in ("/readyz", "/info"):
                response = running.client.get(path)
                assert (response.status_code, response.json()["type"]) == (503, "not-ready")
            assert running.post("/score", GOOD).status_code == 503
            may_load.set()
            wait_until(lambda: running.client.get("/readyz").status_code == 200)
            assert running.post("/score", GOOD).status_code == 200

    @pytest.mark.parametrize("error", [InvalidWeights("the head is missing"), RuntimeError("no such luck")])
    def test_weights_that_do_not_load_end_the_process(self, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
        def load(_: Settings) -> Engine:
            raise error

        with serving(load=load) as running:
            wait_until(lambda: running.server.should_exit)
            assert running.server.failure is error
        assert [one.message for one in caplog.records if one.levelname == "ERROR"] == [
            f"nothing can be served: {error}"
        ]

    @pytest.mark.parametrize(
        ("info", "preference", "words"),
        [
            (GATED, "length:1", "counting has a scalar of its own"),
            (UNGATED, "lenght:1", "these weights have length, vowels, questions, talkative"),
            (UNGATED, "length:0", "zero"),
        ],
    )
    def test_a_default_preference_that_does_not_fit_ends_the_process(
        self, info: ModelInfo, preference: str, words: str
    ) -> None:
        fake = FakeEngine(info)
        with serving(fake, lambda _: fake.engine(), default_preference=preference) as running:
            wait_until(lambda: running.server.failure is not None)
            assert isinstance(running.server.failure, InvalidSetting)
            assert str(running.server.failure).startswith(f"default_preference = '{preference}' is not allowed: ")
            assert words in str(running.server.failure)


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "api_keys": "first-key"}, False),
        ({"host": "127.0.0.1"}, False),
    ],
)
def test_a_service_open_to_other_machines_says_so_once(
    settings: dict[str, str], warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(DrainingServer, "run", lambda *_: None)
    assert serve(read_settings(settings), lambda _: FakeEngine().engine()) is None
    assert [record.levelname for record in caplog.records if "api_keys" in record.message] == ["WARNING"] * warned


class TestReadiness:
    def test_while_draining_requests_should_go_elsewhere(self, served: Served) -> None:
        served.state.is_draining = True
        try:
            response = served.client.get("/readyz")
            assert (response.status_code, response.json()["type"]) == (503, "draining")
            assert served.client.get("/livez").status_code == 200
            assert served.post("/score", GOOD).status_code == 200
        finally:
            served.state.is_draining = False
        assert served.client.get("/readyz").status_code == 200

    def test_with_a_full_queue_requests_should_go_elsewhere(self) -> None:
        with serving(max_wait_seconds="0.0000001") as running:
            assert running.post("/score", GOOD).status_code == 200, "from here on the engine's speed is known"
            held = threading.Thread(target=_post_quietly, args=(running, GOOD | {"response": HOLD}))
            held.start()
            assert running.fake.holding.wait(20)
            response = running.client.get("/readyz")
            assert (response.status_code, response.json()["detail"]) == (503, "the queue is full")
            running.fake.release.set()
            held.join()
            wait_until(lambda: running.client.get("/readyz").status_code == 200)


class TestFaults:
    def test_a_failed_pack_and_its_request_find_each_other_in_the_log(
        self, served: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        response = served.post("/score", GOOD | {"response": FAIL})
        assert response.status_code == 500
        (line,) = (record for record in caplog.records if record.name == "app.api.problems")
        assert line.getMessage() == response.json()["detail"]
        assert "made to fail" in caplog.text

    def test_a_poisoned_device_fails_its_callers_then_ends_the_process(self) -> None:
        with serving() as running:
            response = running.post("/score", GOOD | {"response": POISON})
            assert response.status_code in (500, 503)
            wait_until(lambda: running.server.failure is not None)
            assert running.client.get("/readyz").status_code == 503
            wait_until(lambda: running.server.should_exit)

    def test_a_silent_engine_is_not_alive(self) -> None:
        with serving(watchdog_seconds="0.05", drain_timeout_seconds="0") as running:
            stuck = threading.Thread(target=_post_quietly, args=(running, GOOD | {"response": HOLD}))
            stuck.start()
            running.fake.holding.wait(20)
            wait_until(lambda: running.client.get("/livez").status_code == 503)
            assert running.client.get("/readyz").status_code == 503
            running.fake.release.set()
            wait_until(lambda: running.client.get("/livez").status_code == 200)
            stuck.join()

    def test_an_unforeseen_failure_is_answered_and_logged_without_text(
        self, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        secret = "xyzzy"[::-1]

        def broken(*_: object) -> None:
            raise KeyError(secret)

        monkeypatch.setattr("app.api.scoring.score_result", broken)
        with caplog.at_level(logging.INFO):
            response = served.post("/score", GOOD, headers={"X-Request-Id": "my-request"})
        assert (response.status_code, response.json()["type"]) == (500, "internal-error")
        assert response.json()["request_id"] == response.headers["x-request-id"] == "my-request"
        assert secret not in response.text + caplog.text
        assert "KeyError" in caplog.text
        monkeypatch.undo()
        assert served.post("/score", GOOD).status_code == 200


def _post_quietly(running: Served, body: dict[str, str]) -> None:
    running.post("/score", body)
