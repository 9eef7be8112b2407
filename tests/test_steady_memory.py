"""What the memory benchmark reports is what happened: a slope is the slope, and a wrong status is a fault."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import steady_memory
from benchmarks.steady_memory import Samples, main, request


def test_memory_that_grows_once_settled_has_a_slope() -> None:
    requests = list(range(0, 100_001, 1000))
    growing = [400.0 + min(number, 50_000) / 1000 + number / 5000 for number in requests]
    found = Samples(requests, growing).growth()
    assert (found.before, found.settled, found.after, found.slope_per_10_000) == (400.0, 460.0, 470.0, 2.0)
    assert Samples(requests, [400.0 + min(number, 50_000) / 100 for number in requests]).growth().slope_per_10_000 == 0


def test_one_sample_has_no_slope() -> None:
    with pytest.raises(ValueError, match="send more requests"):
        Samples([0], [400.0]).growth()


def test_no_two_requests_are_alike_and_some_must_be_refused() -> None:
    asked = [request(number) for number in range(800)]
    assert len({one.body for one in asked}) == 800
    paths = {one.path: count for one, count in Counter(asked).items()}
    assert set(paths) == {"/score", "/objectives", "/get_reward"}
    assert Counter(one.status for one in asked) == {200: 600, 422: 100, 400: 100}


def test_a_server_is_asked_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady_memory, "SAMPLES", 40)
    assert main(["--requests", "400", "--connections", "4", "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "steady_memory.json").read_text())
    measured = written["measured"]
    assert measured["statuses"] == {"200": 300, "400": 50, "422": 50}
    assert measured["resident_megabytes"]["before"] > 50
    assert written["samples"]["requests"] == list(range(0, 401, 10))
    assert measured["settings"] == "--prefix-cache-bytes 33554432"
    assert "| answers of an unexpected status | 0 |" in (tmp_path / "steady_memory.md").read_text()
    assert (tmp_path / "steady_memory.png").stat().st_size > 1000


def test_an_answer_of_another_status_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {
        "resident_megabytes": {"slope_per_10_000": 0.0},
        "statuses": {"500": 1},
        "unexpected": {"/score: 500 for 200": 1},
    }

    async def measured(*_: object) -> tuple[dict[str, object], Samples]:
        return figures, Samples([0, 10, 20], [1.0, 1.0, 1.0])

    monkeypatch.setattr(steady_memory, "measure", measured)
    assert main(["--out", str(tmp_path)]) == 1
    assert "/score: 500 for 200" in capsys.readouterr().err
