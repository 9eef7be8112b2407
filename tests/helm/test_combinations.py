"""Every manifest of every combination of options is one that clusters take, and the manifests agree with each other."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helm.options import ALL, INTERACTING, pairs, products
from tests.helm.rendering import NEWEST, OLDEST, Manifest, Release, Render, check


@pytest.fixture(scope="module")
def releases(render: Render) -> list[Release]:
    return [render(values) for values in [*products(), *pairs()]]


def test_the_combinations_are_as_many_as_they_should_be() -> None:
    num_products = 1
    for axis in INTERACTING:
        num_products *= len(axis)
    assert len(list(products())) == num_products
    longest, second = sorted((len(axis) for axis in ALL), reverse=True)[:2]
    assert longest * second <= len(list(pairs())) < 3 * longest * second


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_a_cluster_takes_every_manifest(releases: list[Release], version: str) -> None:
    kinds = set()
    for release in releases:
        for manifest in release.manifests:
            check(manifest, version)
            kinds.add(manifest["kind"])
    assert kinds == {
        *("BackendTrafficPolicy", "ConfigMap", "Deployment", "DestinationRule", "HTTPRoute", "HorizontalPodAutoscaler"),
        *("Ingress", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget", "PrometheusRule", "ScaledObject"),
        *("Secret", "Service", "ServiceMonitor"),
    }


def test_a_manifest_with_a_field_too_many_is_noticed(render: Render) -> None:
    for kind in ("Deployment", "DestinationRule"):
        manifest = render({"promptAffinity": {"provider": "istio"}}).one(kind)
        wrong = {**manifest, "spec": {**manifest["spec"], "replica": 1}}
        with pytest.raises(Exception, match="replica"):
            check(wrong, NEWEST)


def test_no_two_manifests_of_a_release_have_one_name(releases: list[Release]) -> None:
    for release in releases:
        names = [(one["kind"], one["metadata"]["name"]) for one in release.manifests]
        assert len(names) == len(set(names))


def test_every_selector_finds_the_pods(releases: list[Release]) -> None:
    for release in releases:
        labels = release.one("Deployment")["spec"]["template"]["metadata"]["labels"].items()
        for selector in selectors(release):
            assert selector
            assert selector.items() <= labels


def selectors(release: Release) -> Iterator[Manifest]:
    yield release.one("Deployment")["spec"]["selector"]["matchLabels"]
    for service in release.all("Service"):
        yield service["spec"]["selector"]
    for budget in release.all("PodDisruptionBudget"):
        yield budget["spec"]["selector"]["matchLabels"]
    for policy in release.all("NetworkPolicy"):
        yield policy["spec"]["podSelector"]["matchLabels"]
    for spread in release.pod.get("topologySpreadConstraints", []):
        yield spread["labelSelector"]["matchLabels"]


def test_whatever_is_named_is_there_or_is_the_users_own(releases: list[Release]) -> None:
    own = {"models", "keys", "signed", "scraper", "registry", "gateway"}
    for release in releases:
        there = {one["metadata"]["name"] for one in release.manifests}
        assert set(references(release)) <= there | own


def references(release: Release) -> Iterator[str]:
    """Yield the name of everything that a manifest leans on."""
    for volume in release.pod["volumes"]:
        sources: list[dict[str, Any]] = [
            volume.get(kind, {}) for kind in ("secret", "configMap", "persistentVolumeClaim")
        ]
        yield from (value for source in sources for key, value in source.items() if key.endswith(("ame", "Name")))
    yield from (source["configMapRef"]["name"] for source in release.server["envFrom"])
    for scaler in (*release.all("HorizontalPodAutoscaler"), *release.all("ScaledObject")):
        yield scaler["spec"]["scaleTargetRef"]["name"]
    for ingress in release.all("Ingress"):
        for rule in ingress["spec"]["rules"]:
            yield from (path["backend"]["service"]["name"] for path in rule["http"]["paths"])
    for route in release.all("HTTPRoute"):
        yield from (backend["name"] for rule in route["spec"]["rules"] for backend in rule["backendRefs"])


def test_every_volume_is_mounted_and_every_mount_has_its_volume(releases: list[Release]) -> None:
    for release in releases:
        containers = [*release.pod["containers"], *release.pod.get("initContainers", [])]
        mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in release.pod["volumes"]}


def test_no_key_is_in_anything_but_a_secret(render: Render) -> None:
    release = render({"apiKeys": {"keys": ["a-key-of-mine"]}})
    guilty = [one["kind"] for one in release.manifests if "a-key-of-mine" in str(one)]
    assert guilty == []
    assert release.one("Secret")["data"] == {"api-keys": "YS1rZXktb2YtbWluZQ=="}
    assert "a-key-of-mine" not in release.notes
