"""The Pod: what it may do, when it is asked how it is, how it ends, and what makes a new one."""

from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings
from tests.helm.options import ARCHIVE, DIGEST, HUB, SIGNED
from tests.helm.rendering import Manifest, Release, Render, merged

TEMPORARY = {str(Path("/") / "tmp"), "/var/tmp"}
FETCHED: dict[str, Any] = {"weights": SIGNED, "apiKeys": {"keys": ["one"]}, "gpu": {"enabled": True}}


def containers(release: Release) -> list[Manifest]:
    return [*release.pod["containers"], *release.pod.get("initContainers", [])]


def mounts(container: Manifest) -> dict[str, Manifest]:
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


def test_no_container_may_do_more_than_it_must(render: Render) -> None:
    release = render(FETCHED)
    assert len(containers(release)) == 2
    for container in containers(release):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    security = release.pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (10001, 10001, 10001)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert release.pod["automountServiceAccountToken"] is False


def test_kubernetes_own_variables_are_not_taken_for_settings(render: Render) -> None:
    # For a Service called armoserve it would set ARMOSERVE_PORT=tcp://10.0.0.1:8000.
    assert render(name="armoserve").one("Service")["metadata"]["name"] == "armoserve"
    assert render().pod["enableServiceLinks"] is False


def test_all_that_may_be_written_is_temporary(render: Render) -> None:
    release = render(FETCHED)
    for container in containers(release):
        may_write = {path for path, mount in mounts(container).items() if not mount.get("readOnly")}
        assert may_write - TEMPORARY == ({"/weights"} if container["name"] == "fetch-weights" else set())
    assert {"name": "temporary", "emptyDir": {}} in release.pod["volumes"]
    assert {"name": "HOME", "value": "/var/tmp"} in release.server["env"]


def test_keys_reach_the_server_as_a_file_alone(render: Render) -> None:
    release = render({"apiKeys": {"existingSecret": "keys", "secretKey": "all"}})
    (volume,) = [volume for volume in release.pod["volumes"] if volume["name"] == "api-keys"]
    assert volume["secret"] == {
        "secretName": "keys",
        "defaultMode": 0o440,
        "items": [{"key": "all", "path": "api-keys"}],
    }
    folder = mounts(release.server)["/etc/armoserve/keys"]
    assert folder["readOnly"] is True
    assert release.one("ConfigMap")["data"]["ARMOSERVE_API_KEYS_FILE"] == "/etc/armoserve/keys/api-keys"
    assert "secretKeyRef" not in str(release.server)
    assert render().one("ConfigMap")["data"]["ARMOSERVE_API_KEYS_FILE"] == ""


def test_an_engine_that_hangs_is_not_given_the_time_of_a_drain(render: Render) -> None:
    server = render({}).server
    assert server["livenessProbe"]["terminationGracePeriodSeconds"] == 10
    assert "terminationGracePeriodSeconds" not in server["readinessProbe"]


def test_probes_ask_routes_that_there_are_and_that_are_open(render: Render) -> None:
    release = render({"settings": {"metrics_auth": True}, "apiKeys": {"keys": ["one"]}})
    asked = {kind: release.server[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {kind: one["path"] for kind, one in asked.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert {one["path"] for one in asked.values()} <= set(create_app(Settings()).openapi()["paths"])
    assert {one["port"] for one in asked.values()} == {port["name"] for port in release.server["ports"]} == {"http"}


def test_a_moment_takes_nobody_off_and_a_dead_engine_does_not_stay(render: Render) -> None:
    server = render({"probes": {"periodSeconds": 4}}).server
    patience = {
        kind: server[f"{kind}Probe"]["periodSeconds"] * server[f"{kind}Probe"]["failureThreshold"]
        for kind in ("readiness", "liveness")
    }
    assert patience == {"readiness": 12, "liveness": 24}


@pytest.mark.parametrize("seconds", [900, 7, 3601])
def test_loading_has_the_time_that_it_was_given(render: Render, seconds: int) -> None:
    release = render({"probes": {"startupSeconds": seconds}})
    probe = release.server["startupProbe"]
    assert 0 <= probe["failureThreshold"] * probe["periodSeconds"] - seconds < probe["periodSeconds"]
    assert release.one("Deployment")["spec"]["progressDeadlineSeconds"] > seconds


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [({}, 80), ({"drain_delay_seconds": 0.4, "drain_timeout_seconds": 300}, 316), ({"drain_timeout_seconds": 0}, 20)],
)
def test_nobody_is_killed_while_draining(render: Render, settings: Manifest, seconds: int) -> None:
    assert render({"settings": settings}).pod["terminationGracePeriodSeconds"] == seconds


def test_a_new_replica_is_ready_before_an_old_one_goes(render: Render) -> None:
    strategy = render().one("Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"max_wait_seconds": 30}},
        {"apiKeys": {"keys": ["two"]}},
        {"weights": {"archive": {"sha256": "ef" * 32}}},
        {"service": {"port": 9000}},
    ],
)
def test_what_the_server_reads_once_makes_new_pods(render: Render, change: Manifest) -> None:
    before = {"weights": ARCHIVE, "apiKeys": {"keys": ["one"]}}
    assert checksums(render(merged(before, change))) != checksums(render(before))


def checksums(release: Release) -> Manifest:
    return release.one("Deployment")["spec"]["template"]["metadata"]["annotations"]


def test_what_it_does_not_read_makes_none(render: Render) -> None:
    others = {"serviceMonitor": {"enabled": True}, "networkPolicy": {"enabled": True}, "strategy": {"maxSurge": 2}}
    assert checksums(render(others)) == checksums(render())


def test_a_replica_asks_for_one_device_where_there_is_one_to_ask_for(render: Render) -> None:
    assert render({"gpu": {"enabled": True}}).server["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": 1}
    assert render().server["resources"]["limits"] == {"memory": "4Gi"}
    assert render({"gpu": {"enabled": True}}).server["image"] == "armoserve:0.1.0-cuda"
    assert render().server["image"] == "armoserve:0.1.0-cpu"
    assert render({"image": {"tag": "mine"}}).server["image"] == "armoserve:mine"
    assert render({"image": {"digest": f"sha256:{DIGEST}"}}).server["image"] == f"armoserve@sha256:{DIGEST}"


@pytest.mark.parametrize(
    ("resources", "bound"),
    [
        ({}, "requests.cpu"),
        ({"limits": {"cpu": "4"}}, "limits.cpu"),
        ({"requests": {"cpu": None}}, "limits.cpu"),
    ],
)
def test_threads_follow_the_cpu_that_the_container_has(render: Render, resources: Manifest, bound: str) -> None:
    (threads,) = [one for one in render({"resources": resources}).server["env"] if one["name"] == "OMP_NUM_THREADS"]
    assert threads["valueFrom"]["resourceFieldRef"] == {"resource": bound, "divisor": "1"}


def test_new_weights_get_a_folder_of_their_own(render: Render) -> None:
    def folder(weights: Manifest) -> str:
        return render({"weights": weights}).one("ConfigMap", "-settings")["data"]["ARMOSERVE_WEIGHTS"]

    assert folder({}) == "weights/default"
    claim = {"source": "claim", "claim": {"existingClaim": "models"}}
    assert folder(claim) == "/weights"
    assert folder(merged(claim, {"claim": {"path": "armorm/1"}})) == "/weights/armorm/1"
    versions = [
        HUB,
        merged(HUB, {"hub": {"revision": "ef" * 20}}),
        ARCHIVE,
        merged(ARCHIVE, {"archive": {"sha256": "ef" * 32}}),
    ]
    assert len({folder(weights) for weights in versions}) == len(versions)
    # Who may fetch, and from where, does not change what is fetched.
    assert folder(merged(HUB, {"hub": {"tokenSecret": {"name": "token"}}})) == folder(HUB)
    assert folder(SIGNED) == folder(ARCHIVE)


def test_secrets_for_fetching_are_files_of_the_init_container_alone(render: Render) -> None:
    for weights in (SIGNED, merged(HUB, {"hub": {"tokenSecret": {"name": "token"}}})):
        release = render({"weights": weights})
        (fetching,) = release.pod["initContainers"]
        assert mounts(fetching)["/etc/armoserve/fetch"]["readOnly"] is True
        assert "/etc/armoserve/fetch" not in mounts(release.server)
        assert "secretKeyRef" not in str(release.pod)
