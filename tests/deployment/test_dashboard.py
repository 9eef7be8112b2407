"""The dashboard is whole: rows, units, descriptions, variables, and the metrics of the code, no fewer and no others."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from app.serving.metrics import METRICS
from benchmarks.dashboard.queries import dashboard, panels, queries

SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
SERIES = {metric.name + suffix: metric for metric in METRICS for suffix in SUFFIXES[metric.kind]}
ROWS = ["Traffic", "Latency", "Packing", "Capacity", "Failures", "Rewards", "Model revisions"]
WIDTH = 24
PROMTOOL = shutil.which("promtool")


def named(expression: str) -> set[str]:
    return set(re.findall(r"\barmoserve_\w+", expression))


def test_every_metric_of_the_code_is_drawn_and_no_other() -> None:
    drawn = set().union(*(named(query.expression) for query in queries()))
    assert drawn - set(SERIES) == set()
    assert {SERIES[name].name for name in drawn} == {metric.name for metric in METRICS}


def test_labels_are_those_of_the_code() -> None:
    known = {label for metric in METRICS for label in metric.labels} | {"le", "namespace", "job", "instance"}
    for query in queries():
        grouped = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", query.expression)
        matched = re.findall(r'[{,] ?(\w+) ?[=!]~?"', query.expression)
        labels = {label.strip() for group in grouped for label in group.split(",") if label.strip()} | set(matched)
        assert labels <= known, query.panel


def test_rows_and_places() -> None:
    assert [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"] == ROWS
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < WIDTH
        taken |= cells
    identities = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(identities)) == len(identities)


def test_every_panel_says_what_it_shows() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert all(re.search(rf"\b{label}\b", target["expr"]) for label in labels), panel["title"]
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_every_variable_is_there_and_used() -> None:
    variables = [variable["name"] for variable in dashboard()["templating"]["list"]]
    assert variables == ["datasource", "namespace", "job", "revision"]
    for query in queries():
        assert set(re.findall(r"\$([a-z]+)\b", query.expression)) == {"namespace", "job", "revision"}, query.panel


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"q{number}", "expr": query.asked("5m")} for number, query in enumerate(queries())]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run([str(PROMTOOL), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
