"""docker-compose.yaml: confined, on this machine alone, of files that exist and that Prometheus reads."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PROMTOOL = shutil.which("promtool")
DEFAULTED = re.compile(r"\$\{\w+:-([^}]*)\}")


def compose() -> dict[str, Any]:
    text = DEFAULTED.sub(r"\1", (ROOT / "docker-compose.yaml").read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def mounts(service: str) -> dict[str, Path]:
    """Return what of the repository a service sees, by where it sees it."""
    split = [volume.split(":") for volume in services()[service]["volumes"]]
    return {parts[1]: ROOT / parts[0] for parts in split if parts[0].startswith("./")}


@pytest.mark.parametrize("name", services())
def test_services_are_confined_to_this_machine(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [port for port in service["ports"] if not port.startswith("127.0.0.1:")] == []
    assert "build" in service or re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(path.exists() for path in mounts(name).values())
    assert all(volume.endswith(":ro") for volume in service["volumes"] if volume.startswith("./"))


def test_every_service_has_a_health_check() -> None:
    checked = {name for name, service in services().items() if "healthcheck" in service}
    assert checked | {"armoserve"} == set(services())
    assert "\nHEALTHCHECK " in (ROOT / "Dockerfile").read_text()


def test_the_service_is_given_time_to_drain() -> None:
    grace_seconds = int(services()["armoserve"]["stop_grace_period"].removesuffix("s"))
    assert grace_seconds > Settings().drain_delay_seconds + Settings().drain_timeout_seconds


def test_volumes_are_declared() -> None:
    named = {volume.split(":")[0] for service in services().values() for volume in service["volumes"]}
    assert {name for name in named if not name.startswith(".")} == set(compose()["volumes"])


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    seen = mounts("grafana")
    (source,) = yaml.safe_load(seen["/etc/grafana/provisioning/datasources/prometheus.yaml"].read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load(seen["/etc/grafana/provisioning/dashboards/files.yaml"].read_text())["providers"]
    assert (seen[provider["options"]["path"]] / "armoserve.json").is_file()
    home = Path(services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (seen[str(home.parent)] / home.name).is_file()


def test_prometheus_scrapes_the_service() -> None:
    config = yaml.safe_load(mounts("prometheus")["/etc/prometheus/prometheus.yml"].read_text())
    (scrape,) = config["scrape_configs"]
    assert scrape["job_name"] == "armoserve"
    assert scrape["static_configs"] == [{"targets": [f"armoserve:{Settings().port}"]}]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_finds_no_fault_with_what_prometheus_is_given(tmp_path: Path) -> None:
    for place, source in mounts("prometheus").items():
        shutil.copy(source, tmp_path / Path(place).name)
    command = [str(PROMTOOL), "check", "config", str(tmp_path / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 rule files found" in checked.stdout
