"""Replicas: a fixed number, or one that follows the seconds of work that wait."""

import re
from typing import Any

import pytest

from app.serving.metrics import METRICS
from tests.helm.rendering import Manifest, Render

KEDA: dict[str, Any] = {"enabled": True, "prometheusAddress": "http://prometheus:9090"}
SCALING = {"minReplicas": 2, "maxReplicas": 9, "queueSeconds": 12.5}


def metrics_in(manifest: Manifest) -> set[str]:
    return set(re.findall(r"armoserve_\w+", str(manifest["spec"])))


def test_a_number_is_fixed_only_where_nothing_scales(render: Render) -> None:
    assert render().one("Deployment")["spec"]["replicas"] == 1
    assert render({"replicas": 3}).one("Deployment")["spec"]["replicas"] == 3
    assert render({"replicas": 0}).one("Deployment")["spec"]["replicas"] == 0
    # Else every upgrade would set back what the autoscaler has decided.
    assert "replicas" not in render({"keda": KEDA}).one("Deployment")["spec"]
    assert "replicas" not in render({"hpa": {"enabled": True}}).one("Deployment")["spec"]


def test_both_scale_on_a_metric_that_there_is(render: Render) -> None:
    there = {metric.name for metric in METRICS}
    for manifest in (
        render({"hpa": {"enabled": True}}).one("HorizontalPodAutoscaler"),
        render({"hpa": {"enabled": True, "metricType": "External"}}).one("HorizontalPodAutoscaler"),
        render({"keda": KEDA}).one("ScaledObject"),
    ):
        assert metrics_in(manifest) == {"armoserve_queue_wait_estimate_seconds"} <= there


def test_hpa_aims_at_seconds_per_replica(render: Render) -> None:
    pods = render({"hpa": {"enabled": True}, "scaling": SCALING}).one("HorizontalPodAutoscaler")["spec"]
    assert (pods["minReplicas"], pods["maxReplicas"]) == (2, 9)
    assert pods["metrics"][0]["pods"]["target"] == {"type": "AverageValue", "averageValue": "12.5"}
    external = render({"hpa": {"enabled": True, "metricType": "External"}}).one("HorizontalPodAutoscaler")["spec"]
    metric = external["metrics"][0]["external"]
    assert metric["target"] == {"type": "AverageValue", "averageValue": "10"}
    assert metric["metric"]["selector"]["matchLabels"] == {"namespace": "rewards", "service": "demo-armoserve"}


def test_keda_asks_for_the_sum_of_this_service_alone(render: Render) -> None:
    spec = render({"keda": KEDA, "scaling": SCALING}).one("ScaledObject")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 9)
    (trigger,) = spec["triggers"]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"] == {
        "serverAddress": "http://prometheus:9090",
        "query": 'sum(armoserve_queue_wait_estimate_seconds{namespace="rewards",service="demo-armoserve"})',
        "threshold": "12.5",
        "ignoreNullValues": "false",
    }
    assert "fallback" not in spec


def test_keda_takes_ones_own_query_fallback_and_credentials(render: Render) -> None:
    own = {**KEDA, "query": "sum(x)", "fallbackReplicas": 3, "authenticationRef": "prometheus"}
    spec = render({"keda": own}).one("ScaledObject")["spec"]
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 3}
    assert spec["triggers"][0]["metadata"]["query"] == "sum(x)"
    assert spec["triggers"][0]["authenticationRef"] == {"name": "prometheus"}


@pytest.mark.parametrize("scaler", ["HorizontalPodAutoscaler", "ScaledObject"])
def test_both_are_slow_to_give_up_what_took_minutes_to_load(render: Render, scaler: str) -> None:
    values: Manifest = {"hpa": {"enabled": True}} if scaler == "HorizontalPodAutoscaler" else {"keda": KEDA}
    spec = render({**values, "scaling": {"scaleDownSeconds": 1200, "podsPerMinute": 3}}).one(scaler)["spec"]
    advanced = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", spec)
    behavior = advanced["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 1200
    assert behavior["scaleUp"]["policies"] == [{"type": "Pods", "value": 3, "periodSeconds": 60}]


def test_nodes_are_drained_one_replica_at_a_time(render: Render) -> None:
    assert render().one("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    share = {"podDisruptionBudget": {"minAvailable": "50%", "maxUnavailable": ""}}
    spec = render(share).one("PodDisruptionBudget")["spec"]
    assert spec["minAvailable"] == "50%"
    assert "maxUnavailable" not in spec
    assert render({"podDisruptionBudget": {"enabled": False}}).all("PodDisruptionBudget") == []
