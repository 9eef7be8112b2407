"""README's curl, pasted: the served weights/default give README's answer."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from app.main import load_engine
from tests.api.serving import serving, wait_until

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights" / "default"
TOLERANCE = 1e-5
CURL_AND_ANSWER = re.compile(r"^```\n(curl .*?)^```\n.*?^```json\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def numbers_within_tolerance(value: Any) -> Any:
    """Return a JSON value that equals every other one whose floats are near enough."""
    if isinstance(value, float):
        return pytest.approx(value, abs=TOLERANCE)
    if isinstance(value, dict):
        return {key: numbers_within_tolerance(one) for key, one in value.items()}
    return [numbers_within_tolerance(one) for one in value] if isinstance(value, list) else value


def test_the_served_answer_is_the_one_in_the_readme() -> None:
    found = CURL_AND_ANSWER.search((ROOT / "README.md").read_text())
    assert found, "README has no curl with an answer"
    words = shlex.split(found[1])
    path = next(word for word in words if word.startswith("http")).partition(":8000")[2]
    expected = json.loads(found[2])
    with serving(load=load_engine, weights=str(WEIGHTS)) as served:
        wait_until(lambda: served.state.model is not None)
        answer = served.client.post(
            path, content=words[words.index("-d") + 1], headers={"content-type": "application/json"}
        )
    assert answer.status_code == 200, answer.text
    given = answer.json()
    assert given.pop("timings_ms").keys() == expected.pop("timings_ms").keys()
    assert given == numbers_within_tolerance(expected), f"README should say: {answer.text}"
