"""Alerts fire when they should and not otherwise, by promtool; each has a runbook, and its metrics exist."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment.test_dashboard import SERIES

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "helm" / "armoserve" / "files" / "alerts.yaml"
CASES = ROOT / "tests" / "deployment" / "alerts_test.yaml"
OPERATIONS = ROOT / "docs" / "operations.md"
PROMTOOL = shutil.which("promtool")
QUIET_DAY = "an ordinary day"


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def names() -> list[str]:
    return [rule["alert"] for rule in alerts()]


def cases() -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = yaml.safe_load(CASES.read_text())["tests"]
    return tests


def test_every_alert_says_what_how_bad_and_what_to_do() -> None:
    assert len(set(names())) == len(names())
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert {"summary", "description", "runbook_url"} == set(rule["annotations"]), rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    section = OPERATIONS.read_text().partition("\n## Alerts\n")[2]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    runbooks = re.split(r"^### ", section, flags=re.MULTILINE)[1:]
    assert [runbook.split("\n")[0] for runbook in runbooks] == names()
    assert all(len(runbook.split()) > 20 for runbook in runbooks)


def test_alerts_ask_for_metrics_that_exist() -> None:
    asked = set().union(*(re.findall(r"\barmoserve_\w+", rule["expr"]) for rule in alerts()))
    assert asked - set(SERIES) == set()


def test_every_alert_is_tested_firing_and_silent() -> None:
    for name in names():
        expected = [one["exp_alerts"] for case in cases() for one in case.get("alert_rule_test", ())
                    if one["alertname"] == name]  # fmt: skip
        assert any(expected), f"{name} never fires in {CASES.name}"
        assert not all(expected), f"{name} is never silent in {CASES.name}"
    (quiet,) = [case for case in cases() if case["name"] == QUIET_DAY]
    assert {one["expr"] for one in quiet["promql_expr_test"]} == {'count by (alertname) (ALERTS{alertstate="firing"})'}
    given = {re.split("[{ ]", series["series"])[0] for series in quiet["input_series"]}
    asked = set().union(*(re.findall(r"\b\w+(?=[{\[)])", rule["expr"]) for rule in alerts()))
    assert {name for name in asked if name.startswith(("armoserve_", "up", "process_"))} <= given


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_promtool_sees_each_alert_fire_in_its_case_and_none_on_an_ordinary_day() -> None:
    tested = subprocess.run([str(PROMTOOL), "test", "rules", str(CASES)], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr
