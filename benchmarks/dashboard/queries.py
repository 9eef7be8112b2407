"""The dashboard's panels and queries, as Grafana would ask them. Knows no metric."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
DASHBOARD: Final = ROOT / "helm" / "armoserve" / "files" / "dashboards" / "armoserve.json"
EVERYTHING: Final[Mapping[str, str]] = MappingProxyType({"namespace": ".*", "job": ".*", "revision": ".*"})
"""What Grafana puts in where a variable stands at All."""


@dataclass(frozen=True, slots=True)
class Query:
    """One line, or family of lines, of a panel; `legend` names a line by its labels."""

    panel: str
    expression: str
    legend: str

    def asked(self, interval: str, variables: Mapping[str, str] = EVERYTHING) -> str:
        """Put values in for the variables."""
        text = self.expression.replace("$__rate_interval", interval)
        for name, value in variables.items():
            text = re.sub(rf"\${name}\b", value, text)
        return text

    def name(self, labels: Mapping[str, str]) -> str:
        """Return the name of the line with these labels."""
        return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), self.legend).strip()


def dashboard() -> dict[str, Any]:
    """Return the dashboard as it is in the repository."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return loaded


def panels() -> list[dict[str, Any]]:
    """Return what is drawn, the titles of rows left out."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries_of(panel: Mapping[str, Any]) -> list[Query]:
    """Return what a panel asks for."""
    return [Query(panel["title"], target["expr"], target["legendFormat"]) for target in panel["targets"]]


def queries() -> Iterator[Query]:
    """Yield what the dashboard asks for."""
    for panel in panels():
        yield from queries_of(panel)
