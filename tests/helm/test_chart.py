"""The chart itself: lint, its version, and that values, schema, comments and files agree."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from app import __version__
from tests.helm.rendering import CHART, Render

VALUES = CHART / "values.yaml"


def test_helm_finds_nothing_to_mend(helm: Any) -> None:
    report = helm.lint(CHART, strict=True)
    assert report["total_charts_linted"] == 1
    assert report["errors"] == []
    assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


def test_lint_would_notice_a_broken_template(helm: Any, tmp_path: Path) -> None:
    broken = helm.Chart.load(CHART).save_dir(tmp_path)
    (Path(broken) / "templates" / "service.yaml").write_text('{{ include "armoserve.nowhere" . }}\n')
    assert helm.lint(broken, strict=True)["errors"] != []


def test_the_charts_version_is_the_services(helm: Any) -> None:
    metadata = helm.Chart.load(CHART).metadata
    assert metadata["version"] == metadata["appVersion"] == __version__


def test_values_and_schema_name_the_same(helm: Any) -> None:
    chart = helm.Chart.load(CHART)
    named = set(paths_of_schema(chart.schema))
    assert named - set(paths_of_values(chart.values)) == {
        "global",  # Helm's own, for charts within charts
        *("affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity"),
        *("resources.claims", "weights.initResources.claims"),
    }
    assert set(paths_of_values(chart.values)) <= named


def paths_of_schema(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, inside in schema.get("properties", {}).items():
        assert inside.get("type") != "object" or "additionalProperties" in inside or is_kubernetes_own(name), name
        yield f"{path}{name}"
        yield from paths_of_schema(inside, f"{path}{name}.")


def is_kubernetes_own(name: str) -> bool:
    """Say whether a value is handed on whole, for the cluster to judge."""
    return name in {"global", "nodeAffinity", "podAffinity", "podAntiAffinity"}


def paths_of_values(values: dict[str, Any], path: str = "") -> Iterator[str]:
    open_ended = {"resources.requests.", "resources.limits.", "grafanaDashboard.labels."}
    if path.removeprefix("weights.").replace("initResources", "resources") in open_ended:
        return
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from paths_of_values(value, f"{path}{name}.")


def test_every_value_is_commented() -> None:
    lines = VALUES.read_text().splitlines()
    silent = [line for line in lines if re.match(r" *\w+:", line) and "#" not in line]
    # A group's comment, or its title, says what it is for; what is in it has lines of its own.
    groups = [line for line in silent if line.rstrip().endswith(":")]
    amounts = [line for line in silent if re.match(r" +(requests|limits): ", line)]
    assert silent == [line for line in silent if line in groups or line in amounts]
    assert len(groups) < 20


def test_the_readmes_example_is_taken(render: Render) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    filled = example.replace("revision: ...", f"revision: {'ab' * 20}").replace(
        "{...}", "{model.safetensors: " + "ab" * 32 + "}"
    )
    assert render(yaml.safe_load(filled)).one("ScaledObject")


def test_rules_and_dashboards_are_the_files(render: Render) -> None:
    values = {name: {"enabled": True} for name in ("prometheusRule", "grafanaDashboard")}
    release = render(values)
    rules = release.one("PrometheusRule")
    assert rules["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    dashboards = release.one("ConfigMap", "-dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    files = {file.name: json.loads(file.read_text()) for file in (CHART / "files" / "dashboards").glob("*.json")}
    assert {name: json.loads(text) for name, text in dashboards["data"].items()} == files
    assert files


def test_runbooks_are_where_you_say(render: Render) -> None:
    values = {"prometheusRule": {"enabled": True, "runbookUrl": "https://wiki.example/armoserve"}}
    (group,) = render(values).one("PrometheusRule")["spec"]["groups"]
    for rule in group["rules"]:
        assert rule["annotations"]["runbook_url"] == f"https://wiki.example/armoserve#{rule['alert'].lower()}"


def test_prometheus_knows_the_service_by_the_job_of_the_alerts(render: Render) -> None:
    (endpoint,) = render({"serviceMonitor": {"enabled": True}}, name="other").one("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "armoserve"}]
    assert 'job="armoserve"' in (CHART / "files" / "alerts.yaml").read_text()
    assert "authorization" not in endpoint


def test_a_guarded_scrape_shows_its_key(render: Render) -> None:
    values = {
        "apiKeys": {"keys": ["one"]},
        "settings": {"metrics_auth": True},
        "serviceMonitor": {"enabled": True, "keySecret": {"name": "scraper"}},
    }
    (endpoint,) = render(values).one("ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": {"name": "scraper", "key": "api-key"}}
