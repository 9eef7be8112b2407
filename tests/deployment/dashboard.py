"""The dashboard's panels and queries, as Grafana would ask them. Knows no metric."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "helm" / "armoserve" / "files" / "dashboards" / "armoserve.json"
EVERYTHING = {"namespace": ".*", "job": ".*", "revision": ".*"}
"""What Grafana puts in where a variable stands at All."""


@dataclass(frozen=True, slots=True)
class Query:
    """One line, or family of lines, of a panel."""

    panel: str
    expression: str

    def asked(self, interval: str, variables: dict[str, str] = EVERYTHING) -> str:
        """Put values in for the variables."""
        text = self.expression.replace("$__rate_interval", interval)
        for name, value in variables.items():
            text = re.sub(rf"\${name}\b", value, text)
        return text


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    """Return what is drawn, the titles of rows left out."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    for panel in panels():
        for target in panel["targets"]:
            yield Query(panel["title"], target["expr"])
