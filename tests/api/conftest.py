from collections.abc import Iterator

import pytest

from tests.api.fake_engine import UNGATED, FakeEngine
from tests.api.serving import Served, serving


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """A server of gated weights with heads, shared by tests that leave it as they found it."""
    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def ungated() -> Iterator[Served]:
    """A server of weights with several objectives, no gating and no heads."""
    with serving(FakeEngine(UNGATED)) as running:
        yield running
