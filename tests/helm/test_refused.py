"""Deliberate mistakes in values: each is refused, in words that say what was wrong."""

from typing import Any

import pytest

from tests.helm.options import ARCHIVE, COMMIT, DIGEST, HUB
from tests.helm.rendering import CHART, Render, merged

KEDA = {"enabled": True, "prometheusAddress": "http://prometheus:9090"}
UNPINNED = merged(HUB, {"hub": {"revision": "main"}})
ONE_NODE = {**HUB, "storage": {"persistent": True, "accessModes": ["ReadWriteOnce"]}}

BY_SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "a value of an unknown name": ({"replicaCount": 2}, "additional properties 'replicaCount' not allowed"),
    "an unknown setting": ({"settings": {"max_tokens": 1}}, "'/settings': additional properties 'max_tokens'"),
    "keys among the settings": ({"settings": {"api_keys": "one"}}, "'/settings': additional properties 'api_keys'"),
    "a port among the settings": ({"settings": {"port": 80}}, "'/settings': additional properties 'port'"),
    "words for a number": ({"replicas": "two"}, "'/replicas': got string, want integer"),
    "two devices": ({"gpu": {"count": 2}}, "'/gpu': additional properties 'count' not allowed"),
    "a branch for a commit": ({"weights": UNPINNED}, "'/weights/hub/revision': 'main' does not match"),
    "half a digest": ({"weights": {"archive": {"sha256": "abcd"}}}, "'/weights/archive/sha256': 'abcd' does not match"),
    "an address without http": ({"keda": {"prometheusAddress": "prometheus"}}, "'/keda/prometheusAddress'"),
    "a key with a space": ({"apiKeys": {"keys": ["a b"]}}, "'/apiKeys/keys/0': 'a b' does not match"),
    "an unknown source": ({"weights": {"source": "s3"}}, "must be one of 'image', 'claim', 'hub', 'archive'"),
    "an unknown balancer": ({"promptAffinity": {"provider": "traefik"}}, "must be one of 'none', 'ingress-nginx'"),
    "a name too long": ({"fullnameOverride": "a" * 64}, "'/fullnameOverride'"),
    "a port for root": ({"service": {"port": 80}}, "'/service/port': minimum: got 80, want 1,024"),
    "a time without an end": (
        {"settings": {"drain_timeout_seconds": -1}},
        "'/settings/drain_timeout_seconds': minimum",
    ),
    "an image by half a digest": ({"image": {"digest": "sha256:12"}}, "'/image/digest'"),
}
BY_CHECKS: dict[str, tuple[dict[str, Any], str]] = {
    "two autoscalers": ({"hpa": {"enabled": True}, "keda": KEDA}, "hpa.enabled and keda.enabled are both true"),
    "an autoscaler and a number": ({"keda": KEDA, "replicas": 2}, "replicas = 2 with an autoscaler"),
    "no number, but an autoscaler": ({"hpa": {"enabled": True}, "replicas": 0}, "replicas = 0 with an autoscaler"),
    "least above most": (
        {"scaling": {"minReplicas": 9}},
        "scaling.minReplicas = 9 is more than scaling.maxReplicas = 4",
    ),
    "keda without prometheus": ({"keda": {"enabled": True}}, "keda.enabled needs keda.prometheusAddress"),
    "no room for an update": (
        {"strategy": {"maxSurge": 0}},
        "strategy.maxSurge and strategy.maxUnavailable are both 0",
    ),
    "two budgets": ({"podDisruptionBudget": {"minAvailable": 1}}, "one of minAvailable and maxUnavailable"),
    "no budget": ({"podDisruptionBudget": {"maxUnavailable": ""}}, "one of minAvailable and maxUnavailable"),
    "a budget for nobody": (
        {"replicas": 2, "podDisruptionBudget": {"minAvailable": 2, "maxUnavailable": ""}},
        "minAvailable = 2 with at most 2 replicas would let no node be drained",
    ),
    "a budget for nobody when few are left": (
        {"hpa": {"enabled": True}, "podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": ""}},
        "minAvailable = 1 with as few as 1 replicas would let no node be drained",
    ),
    "all must stay": (
        {"replicas": 3, "podDisruptionBudget": {"minAvailable": "100%", "maxUnavailable": ""}},
        "minAvailable = 100% with at most 3 replicas would let no node be drained",
    ),
    "none may go": (
        {"podDisruptionBudget": {"maxUnavailable": "0%"}},
        "maxUnavailable = 0% would let no node be drained",
    ),
    "no room in percent": (
        {"strategy": {"maxSurge": "0%", "maxUnavailable": 0}},
        "strategy.maxSurge and strategy.maxUnavailable are both 0",
    ),
    "a claim without a name": ({"weights": {"source": "claim"}}, "needs weights.claim.existingClaim"),
    "a hub without a name": ({"weights": {"source": "hub"}}, "needs weights.hub.id"),
    "a hub without a commit": (
        {"weights": {"source": "hub", "hub": {"id": "owner/name"}}},
        "needs weights.hub.revision, a commit of 40 hexadecimal digits",
    ),
    "a hub without digests": (
        {"weights": {"source": "hub", "hub": {"id": "owner/name", "revision": COMMIT}}},
        "needs weights.hub.sha256",
    ),
    "an archive from nowhere": (
        {"weights": {"source": "archive", "archive": {"sha256": DIGEST}}},
        "needs one of weights.archive.url and weights.archive.urlSecret.name",
    ),
    "an archive from two places": (
        {"weights": merged(ARCHIVE, {"archive": {"urlSecret": {"name": "signed"}}})},
        "needs one of weights.archive.url and weights.archive.urlSecret.name",
    ),
    "an archive without a digest": (
        {"weights": merged(ARCHIVE, {"archive": {"sha256": ""}})},
        "an archive without a digest is never opened",
    ),
    "one node's claim for many": (
        {"replicas": 3, "weights": ONE_NODE},
        "without ReadWriteMany serves one replica, and there may be 3",
    ),
    "one node's claim for an old Pod and a new one": (
        {"weights": ONE_NODE},
        "without ReadWriteMany and strategy.maxSurge = 1: an update would wait for ever",
    ),
    "the second of one GPU": (
        {"gpu": {"enabled": True}, "settings": {"device": "cuda:1"}},
        "a Pod has one GPU, which is cuda:0 in it",
    ),
    "killed while draining": (
        {"terminationGracePeriodSeconds": 65},
        "terminationGracePeriodSeconds = 65 would kill a Pod while it drains",
    ),
    "a GPU left idle": ({"gpu": {"enabled": True}, "settings": {"device": "cpu"}}, "would hold a GPU idle"),
    "CUDA without a GPU": ({"settings": {"device": "cuda:0"}}, "settings.device = cuda:0 needs gpu.enabled"),
    "a conversation for no pack": (
        {"settings": {"max_conversation_tokens": 2_000_001, "max_pack_tokens": 2_000_000}},
        "max_conversation_tokens = 2000001 is more than settings.max_pack_tokens = 2000000",
    ),
    "a setting by the side door": (
        {"extraEnv": [{"name": "ARMOSERVE_PORT", "value": "1"}]},
        "extraEnv sets ARMOSERVE_PORT: that belongs to settings",
    ),
    "keys from two places": ({"apiKeys": {"keys": ["a"], "existingSecret": "b"}}, "are both set; use one"),
    "metrics guarded by nothing": ({"settings": {"metrics_auth": True}}, "guards nothing without keys"),
    "a scraper without a key": (
        {"settings": {"metrics_auth": True}, "apiKeys": {"keys": ["a"]}, "serviceMonitor": {"enabled": True}},
        "needs serviceMonitor.keySecret.name, or Prometheus is answered 401",
    ),
    "an ingress without a host": ({"ingress": {"enabled": True}}, "needs ingress.hosts"),
    "a route without a gateway": ({"httpRoute": {"enabled": True}}, "needs httpRoute.parentRefs"),
    "affinity of no ingress": ({"promptAffinity": {"provider": "ingress-nginx"}}, "needs ingress.enabled"),
    "affinity of no route": ({"promptAffinity": {"provider": "envoy-gateway"}}, "needs httpRoute.enabled"),
}
MISTAKES = {**BY_SCHEMA, **BY_CHECKS}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_and_named(render: Render, helm: Any, mistake: str) -> None:
    values, words = MISTAKES[mistake]
    with pytest.raises(helm.HelmError) as refused:
        render(values)
    assert words in str(refused.value)


def test_every_refusal_of_the_chart_is_among_the_mistakes() -> None:
    num_refusals = (CHART / "templates" / "_checks.tpl").read_text().count("fail ")
    assert len({words for _, words in BY_CHECKS.values()}) >= num_refusals


@pytest.mark.parametrize(
    "values",
    [
        {"terminationGracePeriodSeconds": 66},
        {"replicas": 2, "podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": ""}},
        {"weights": ONE_NODE, "strategy": {"maxSurge": 0, "maxUnavailable": 1}},
        {
            "hpa": {"enabled": True},
            "scaling": {"minReplicas": 2},
            "podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": ""},
        },
        {"settings": {"max_conversation_tokens": 16_384}},
        {"scaling": {"minReplicas": 4}},
        {"replicas": 0},
    ],
)
def test_what_is_barely_right_is_taken(render: Render, values: dict[str, Any]) -> None:
    assert render(values).one("Deployment")
