"""The chart, rendered by Helm's engine; tests skip where that is not installed."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import kubernetes_validate.utils
import pytest

from tests.helm.rendering import CHART, Release, Render, release


@pytest.fixture(scope="session")
def helm() -> Any:
    return pytest.importorskip("helm_python")


@pytest.fixture(scope="session")
def render(helm: Any) -> Render:
    chart = helm.Chart.load(CHART)

    def rendered(values: Mapping[str, Any] | None = None, name: str = "demo", namespace: str = "rewards") -> Release:
        return release(chart.render(dict(values or {}), name=name, namespace=namespace))

    return rendered


@pytest.fixture(scope="session", autouse=True)
def schemas_are_read_once() -> Any:
    # Each validation reads megabytes of definitions anew.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
        yield
