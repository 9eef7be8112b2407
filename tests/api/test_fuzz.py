"""The OpenAPI document, fuzzed against a real server of the application: schemathesis, held to schemathesis.toml.

A few cases a route here; `make fuzz` runs as many as one likes, against any service.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings
from tests.api.fake_engine import UNGATED, FakeEngine
from tests.api.serving import serving

ROOT = Path(__file__).resolve().parents[2]
CASES_PER_ROUTE = 12
FEWEST_CASES = 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fake", "phases"),
    [(FakeEngine(), "coverage,fuzzing"), (FakeEngine(UNGATED), "fuzzing")],
    ids=["with heads", "without"],
)
def test_no_case_finds_an_answer_that_the_document_does_not_tell(
    fake: FakeEngine, phases: str, record_property: Callable[[str, object], None]
) -> None:
    with serving(fake) as running:
        report = fuzzed(running.port, "--phases", phases, "--max-examples", str(CASES_PER_ROUTE), "--seed", "1")
    assert report.returncode == 0, report.stdout[-6000:] + report.stderr[-2000:]
    num_routes = len(create_app(Settings()).openapi()["paths"])
    assert re.search(rf"Tested: {num_routes}\b", report.stdout), report.stdout
    (num_cases,) = re.findall(r"(\d+) generated", report.stdout)
    record_property("cases", num_cases)
    assert int(num_cases) >= FEWEST_CASES


def fuzzed(port: int, *options: str) -> subprocess.CompletedProcess[str]:
    location = f"http://127.0.0.1:{port}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", location, "--no-color", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
