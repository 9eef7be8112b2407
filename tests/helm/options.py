"""The options of the chart, one axis a concern, and the combinations that are tried. Knows no manifest."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

from tests.helm.rendering import merged

Axis = Mapping[str, Mapping[str, Any]]
Choice = tuple[tuple[str, str], ...]

DIGEST = "ab" * 32
COMMIT = "cd" * 20
HUB = {"source": "hub", "hub": {"id": "owner/name", "revision": COMMIT, "sha256": {"model.safetensors": DIGEST}}}
ARCHIVE = {"source": "archive", "archive": {"url": "http://store:9000/weights.tar", "sha256": DIGEST}}
SIGNED = {"source": "archive", "archive": {"urlSecret": {"name": "signed"}, "sha256": DIGEST}}
NGINX = {"enabled": True, "hosts": ["a.example", "b.example"], "controller": "ingress-nginx"}
ROUTE = {"enabled": True, "parentRefs": [{"name": "gateway", "namespace": "ingress"}]}

SCALING: Axis = {
    "one": {},
    "three": {"replicas": 3},
    "hpa on pods": {"hpa": {"enabled": True}},
    "hpa on external": {"hpa": {"enabled": True, "metricType": "External"}},
    "keda": {"keda": {"enabled": True, "prometheusAddress": "http://prometheus:9090"}},
}
WEIGHTS: Axis = {
    "image": {},
    "claim": {"weights": {"source": "claim", "claim": {"existingClaim": "models", "path": "armorm/1"}}},
    "hub": {"weights": HUB},
    "hub in a claim": {"weights": {**HUB, "storage": {"persistent": True, "storageClassName": "nfs"}}},
    "archive": {"weights": ARCHIVE},
    "signed in my claim": {"weights": {**SIGNED, "storage": {"persistent": True, "existingClaim": "models"}}},
}
ROUTING: Axis = {
    "none": {},
    "ingress": {"ingress": {"enabled": True, "hosts": ["a.example"], "annotations": {"a": "b"}}},
    "ingress-nginx": {"ingress": NGINX, "promptAffinity": {"provider": "ingress-nginx"}},
    "envoy-gateway": {"httpRoute": ROUTE, "promptAffinity": {"provider": "envoy-gateway"}},
    "istio": {"promptAffinity": {"provider": "istio"}},
}
INTERACTING = (SCALING, WEIGHTS, ROUTING)

KEYS: Axis = {
    "open": {},
    "keys": {"apiKeys": {"keys": ["one", "two"]}},
    "my keys": {"apiKeys": {"existingSecret": "keys", "secretKey": "all"}},
    "keys for metrics": {"apiKeys": {"keys": ["one"]}, "settings": {"metrics_auth": True}},
}
METRICS: Axis = {
    "none": {},
    "all": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "keySecret": {"name": "scraper"}},
        "prometheusRule": {"enabled": True},
        "grafanaDashboard": {"enabled": True, "annotations": {"grafana_folder": "Rewards"}},
    },
}
DEVICE: Axis = {
    "cpu": {"resources": {"limits": {"cpu": "4"}}},
    "gpu": {
        "gpu": {"enabled": True},
        "runtimeClassName": "nvidia",
        "settings": {"device": "cuda", "dtype": "bfloat16"},
    },
    "slice": {
        "gpu": {"enabled": True, "resource": "nvidia.com/mig-3g.71gb"},
        "resources": {"limits": {"memory": "8Gi"}},
    },
}
PLACE: Axis = {
    "anywhere": {"topologySpread": {"enabled": False}},
    "somewhere": {
        "nodeSelector": {"accelerator": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "high",
        "podLabels": {"team": "rlhf"},
        "podAnnotations": {"note": "x"},
        "extraEnv": [{"name": "OTEL_TRACES_SAMPLER", "value": "always_on"}],
        "image": {"digest": f"sha256:{DIGEST}", "pullSecrets": ["registry"]},
    },
}
NETWORK: Axis = {
    "any": {},
    "policy": {"networkPolicy": {"enabled": True}, "settings": {"otlp_endpoint": "http://collector:4318"}},
    "closed": {
        "networkPolicy": {
            "enabled": True,
            "from": [{"namespaceSelector": {}}],
            "egress": [{"to": [{"podSelector": {}}]}],
        },
        "service": {"type": "LoadBalancer", "annotations": {"internal": "true"}, "port": 9000},
    },
}
BUDGET: Axis = {
    "one away": {},
    "none": {"podDisruptionBudget": {"enabled": False}, "strategy": {"maxSurge": 0, "maxUnavailable": 1}},
    "a share": {
        "podDisruptionBudget": {"minAvailable": "50%", "maxUnavailable": ""},
        "strategy": {"maxSurge": "25%", "maxUnavailable": "0%"},
        "terminationGracePeriodSeconds": 300,
    },
}
ALL = (*INTERACTING, KEYS, METRICS, DEVICE, PLACE, NETWORK, BUDGET)


def combined(axes: Sequence[Axis], names: Sequence[str]) -> dict[str, Any]:
    return merged(*(axis[name] for axis, name in zip(axes, names, strict=True)))


def products() -> Iterator[dict[str, Any]]:
    """Yield every combination of the axes that meet in one manifest."""
    return (combined(INTERACTING, names) for names in product(*INTERACTING))


def pairs() -> Iterator[dict[str, Any]]:
    """Yield combinations of all axes until any two options have been together."""
    due = {frozenset([(i, a), (j, b)]) for (i, x), (j, y) in combinations(enumerate(ALL), 2) for a, b in product(x, y)}
    while due:
        names = _greedy(due)
        due -= _pairs_of(names)
        yield combined(ALL, names)


def _greedy(due: set[frozenset[tuple[int, str]]]) -> list[str]:
    """Begin with a pair that is due, then choose on each axis what settles most."""
    first = dict(min(due, key=sorted))
    chosen: dict[int, str] = dict(first)
    for index, axis in enumerate(ALL):
        if index not in chosen:
            gains = {name: len(due & _pairs_of_choice({**chosen, index: name})) for name in axis}
            chosen[index] = max(gains, key=lambda name: gains[name])
    return [chosen[index] for index in range(len(ALL))]


def _pairs_of(names: Sequence[str]) -> set[frozenset[tuple[int, str]]]:
    return _pairs_of_choice(dict(enumerate(names)))


def _pairs_of_choice(chosen: Mapping[int, str]) -> set[frozenset[tuple[int, str]]]:
    return {frozenset(pair) for pair in combinations(chosen.items(), 2)}
