"""What a browser may do with answers: headers on each, the documentation page's own policy, other origins' pages."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api.documentation import PAGE_POLICY
from app.api.security_headers import SECURITY_HEADERS
from tests.api.fake_engine import FAIL
from tests.api.serving import Served, serving

GOOD = {"prompt": "Say something", "response": "aei? bcd"}
HEADERS = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}
ORIGIN = "https://dashboards.example"
ASKED = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}


def sent_headers(response: httpx.Response) -> dict[str, str]:
    return {name: response.headers[name] for name in HEADERS if name in response.headers}


class TestHeaders:
    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("POST", "/score", GOOD, 200),
            ("POST", "/get_reward", {"query": []}, 200),
            ("POST", "/score/stream", GOOD, 200),
            ("POST", "/score", {}, 422),
            ("POST", "/score", GOOD | {"response": FAIL}, 500),
            ("GET", "/score", None, 405),
            ("GET", "/nothing", None, 404),
            ("GET", "/livez", None, 200),
            ("HEAD", "/info", None, 200),
            ("GET", "/metrics", None, 200),
            ("GET", "/openapi.json", None, 200),
            ("OPTIONS", "/score", None, 405),
        ],
    )
    def test_data_is_not_shown_kept_or_guessed_at(
        self, served: Served, method: str, path: str, body: Any, status: int
    ) -> None:
        response = served.client.request(method, path, json=body)
        assert response.status_code == status
        assert sent_headers(response) == HEADERS

    def test_so_is_what_is_refused_before_any_route(self) -> None:
        with serving(api_keys="first-key", max_body_bytes="10") as running:
            for key, status in (("first-key", 413), ("wrong", 401)):
                response = running.post("/score", GOOD, headers={"X-API-Key": key})
                assert response.status_code == status
                assert sent_headers(response) == HEADERS

    def test_a_failure_that_nobody_foresaw(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.api.scoring.score_result", None)
        response = served.post("/score", GOOD)
        assert response.status_code == 500
        assert sent_headers(response) == HEADERS

    def test_the_page_may_load_its_own_files_and_nothing_else(self, served: Served) -> None:
        page = served.client.get("/docs")
        assert sent_headers(page) == HEADERS | {"content-security-policy": PAGE_POLICY}
        allowed = dict(part.split(" ", 1) for part in PAGE_POLICY.split("; "))
        assert allowed.pop("default-src") == "'none'"
        assert allowed["script-src"] == allowed["connect-src"] == "'self'"
        assert {source for sources in allowed.values() for source in sources.split()} == {
            "'self'",
            "'none'",
            "'unsafe-inline'",
            "data:",
        }

    @pytest.mark.parametrize("path", ["/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"])
    def test_files_that_are_the_same_for_everybody_may_be_kept(self, served: Served, path: str) -> None:
        response = served.client.get(path)
        assert sent_headers(response) == HEADERS | {"cache-control": "private, max-age=3600"}
        assert response.headers["content-type"].split(";")[0] in ("text/javascript", "text/css")


class TestOtherOrigins:
    @pytest.fixture(scope="class")
    def named(self) -> Iterator[Served]:
        with serving(cors_origins=ORIGIN, api_keys="key") as running:
            yield running

    def test_none_is_let_in_unless_it_is_named(self, served: Served) -> None:
        assert served.client.options("/score", headers=ASKED).status_code == 405
        for answer in (served.client.options("/score", headers=ASKED), served.post("/score", GOOD, headers=ASKED)):
            assert not [name for name in answer.headers if name.startswith("access-control-")]

    def test_one_that_is_named_may_ask_and_read(self, named: Served) -> None:
        preflight = named.client.options("/score", headers=ASKED)
        assert preflight.status_code == 200, "a browser shows no key when it asks beforehand"
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "x-api-key" in preflight.headers["access-control-allow-headers"]
        answer = named.post("/score", GOOD, headers={"Origin": ORIGIN, "X-API-Key": "key"})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert (
            answer.headers["access-control-expose-headers"]
            == "Retry-After, Server-Timing, X-Model-Revision, X-Request-Id"
        )
        assert "origin" in answer.headers["vary"].lower()

    def test_it_may_read_what_went_wrong_whoever_foresaw_it(
        self, named: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown = {"Origin": ORIGIN, "X-API-Key": "key"}
        refused = named.post("/score", {}, headers=shown)
        monkeypatch.setattr("app.api.scoring.score_result", None)
        failed = named.post("/score", GOOD, headers=shown)
        assert [refused.status_code, failed.status_code] == [422, 500]
        for answer in (refused, failed):
            assert answer.headers.get_list("access-control-allow-origin") == [ORIGIN]
        stranger = named.post("/score", GOOD, headers=shown | {"Origin": "https://evil.example"})
        assert stranger.status_code == 500
        assert "access-control-allow-origin" not in stranger.headers

    def test_its_pages_still_need_a_key(self, named: Served) -> None:
        assert named.post("/score", GOOD, headers={"Origin": ORIGIN}).status_code == 401

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", f"{ORIGIN}.evil.example", f"{ORIGIN}:444", "http://dashboards.example", "null", ""],
    )
    def test_strangers_are_not_let_in(self, named: Served, origin: str) -> None:
        for answer in (
            named.client.options("/score", headers=ASKED | {"Origin": origin}),
            named.post("/score", GOOD, headers={"Origin": origin, "X-API-Key": "key"}),
        ):
            assert "access-control-allow-origin" not in answer.headers

    def test_a_browsers_own_credentials_are_never_asked_for(self, named: Served) -> None:
        with serving(cors_origins="*") as everybody:
            for running, allowed in ((named, ORIGIN), (everybody, "*")):
                asked, answered = running.client.options("/score", headers=ASKED), running.post("/score", GOOD)
                assert asked.headers["access-control-allow-origin"] == allowed
                for answer in (asked, answered):
                    assert "access-control-allow-credentials" not in answer.headers
