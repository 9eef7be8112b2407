"""The ways in: names, routes and their limits, requests with one prompt to one replica, and who may connect."""

from typing import Any

import pytest

from app.client_requests import PROMPT_KEY_HEADER
from app.main import create_app
from app.settings import Settings
from tests.helm.options import ALL, HUB, NGINX, ROUTE, combined
from tests.helm.rendering import CHART, Manifest, Render

PREFIX = "nginx.ingress.kubernetes.io/"
STREAM = "/score/stream"


def annotations(ingress: Manifest) -> dict[str, str]:
    return {name.removeprefix(PREFIX): value for name, value in ingress["metadata"].get("annotations", {}).items()}


def paths(ingress: Manifest) -> list[tuple[str, str]]:
    return [(path["path"], path["pathType"]) for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]


def test_the_header_is_the_clients(helm: Any) -> None:
    assert helm.Chart.load(CHART).values["promptAffinity"]["header"] == PROMPT_KEY_HEADER


@pytest.mark.parametrize("name", ["a", "a" * 53, "armoserve", "my-armoserve-" + "b" * 40])
def test_names_are_never_too_long(render: Render, name: str) -> None:
    full = [max(axis, key=lambda option: len(str(axis[option]))) for axis in ALL]
    for values in (
        combined(ALL, full),
        {"ingress": NGINX, "promptAffinity": {"provider": "ingress-nginx"}, "weights": HUB},
    ):
        release = render(values, name=name)
        names = [one["metadata"]["name"] for one in release.manifests]
        assert max(map(len, names)) <= 63
        assert not [one for one in names if one.endswith("-") or "--" in one]


def test_requests_with_the_header_are_hashed_and_others_take_turns(render: Render) -> None:
    release = render({"ingress": NGINX, "promptAffinity": {"provider": "ingress-nginx"}})
    turns, hashed = release.one("Ingress", "demo-armoserve"), release.one("Ingress", "-affine")
    # An empty key would be one key: all requests without the header would meet on one replica.
    assert "upstream-hash-by" not in annotations(turns)
    assert annotations(hashed) == {
        "canary": "true",
        "canary-by-header": "X-Prompt-Key",
        "canary-by-header-pattern": ".+",
        "upstream-hash-by": "$http_x_prompt_key",
    }
    # A canary belongs to the Ingress with its hosts and paths, and is another upstream by a Service of its own.
    assert paths(turns) == paths(hashed)
    services = [one["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] for one in (turns, hashed)]
    assert services == ["demo-armoserve", "demo-armoserve-affine"]
    first, second = (release.one("Service", name)["spec"] for name in services)
    assert first == second


def test_only_one_of_the_two_services_is_scraped(render: Render) -> None:
    values = {"ingress": NGINX, "promptAffinity": {"provider": "ingress-nginx"}, "serviceMonitor": {"enabled": True}}
    release = render(values)
    wanted = release.one("ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    scraped = [one["metadata"]["name"] for one in release.all("Service") if wanted <= one["metadata"]["labels"].items()]
    assert scraped == ["demo-armoserve"]


def test_nginx_allows_what_the_service_allows(render: Render) -> None:
    settings = {"max_body_bytes": 10_000_000, "max_wait_seconds": 30.5, "stream_stall_seconds": 45}
    release = render({"ingress": NGINX, "settings": settings})
    assert annotations(release.one("Ingress", "demo-armoserve")) == {
        "proxy-body-size": "10000000",
        "proxy-read-timeout": "91",
    }
    stream = release.one("Ingress", "-stream")
    assert paths(stream) == [(STREAM, "Exact")] * 2
    assert annotations(stream) == {
        "proxy-body-size": "0",
        "proxy-request-buffering": "off",
        "proxy-buffering": "off",
        "proxy-http-version": "1.1",
        # A bulk line may wait for hours; who stands still is told so by the service.
        "proxy-read-timeout": "86400",
        "proxy-send-timeout": "86400",
    }


def test_your_annotations_win_and_nothing_is_assumed_of_other_controllers(render: Render) -> None:
    mine = {f"{PREFIX}proxy-read-timeout": "7"}
    release = render({"ingress": {**NGINX, "annotations": mine}})
    assert {annotations(one)["proxy-read-timeout"] for one in release.all("Ingress")} == {"7"}
    other = render({"ingress": {"enabled": True, "hosts": ["a.example"], "className": "other"}}).one("Ingress")
    assert "annotations" not in other["metadata"]
    assert other["spec"]["ingressClassName"] == "other"


def test_a_gateway_hashes_the_header_and_sets_no_end_to_streams(render: Render) -> None:
    release = render({"httpRoute": ROUTE, "promptAffinity": {"provider": "envoy-gateway"}})
    route, policy = release.one("HTTPRoute"), release.one("BackendTrafficPolicy")
    timeouts = {rule["matches"][0]["path"]["value"]: rule["timeouts"]["request"] for rule in route["spec"]["rules"]}
    assert timeouts == {STREAM: "0s", "/": "150s"}
    assert STREAM in create_app(Settings()).openapi()["paths"]
    assert policy["spec"]["targetRefs"][0]["name"] == route["metadata"]["name"]
    assert policy["spec"]["loadBalancer"]["consistentHash"]["header"] == {"name": "X-Prompt-Key"}


def test_istio_hashes_the_header_for_the_service_by_its_whole_name(render: Render) -> None:
    rule = render({"promptAffinity": {"provider": "istio", "header": "X-Mine"}}).one("DestinationRule")["spec"]
    assert rule["host"] == "demo-armoserve.rewards.svc.cluster.local"
    assert rule["trafficPolicy"]["loadBalancer"] == {"consistentHash": {"httpHeaderName": "X-Mine"}}


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ({}, set()),
        ({"weights": HUB}, {443}),
        ({"weights": {"source": "archive", "archive": {"url": "http://s/w.tar", "sha256": "ab" * 32}}}, {80}),
        ({"weights": {"source": "archive", "archive": {"url": "http://s:9000/w", "sha256": "ab" * 32}}}, {9000}),
        ({"weights": {"source": "archive", "archive": {"urlSecret": {"name": "u"}, "sha256": "ab" * 32}}}, {443}),
        ({"settings": {"otlp_endpoint": "https://collector"}}, {443}),
        ({"settings": {"otlp_endpoint": "http://collector:4318"}}, {4318}),
    ],
)
def test_only_what_is_needed_may_leave(render: Render, values: Manifest, ports: set[int]) -> None:
    policy = render({"networkPolicy": {"enabled": True}, **values}).one("NetworkPolicy")["spec"]
    allowed = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert allowed == {53} | ports
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]


def test_only_those_named_may_connect(render: Render) -> None:
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "training"}}}]
    policy = render({"networkPolicy": {"enabled": True, "from": peers}}).one("NetworkPolicy")["spec"]
    assert policy["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}], "from": peers}]


def test_notes_say_that_an_open_service_is_open(render: Render) -> None:
    assert "open to everyone" in render().notes
    assert "open to everyone" not in render({"apiKeys": {"existingSecret": "keys"}}).notes
