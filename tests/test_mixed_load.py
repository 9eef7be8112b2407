"""What the mixed load reports is what happened: a wrong score is a fault, and memory that grows has a slope."""

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.mixed_load import TOLERANCES, Answer, Load, Memory, latencies
from benchmarks.server_process import WatchedServer

RIGHT = {"results": [{"scores": [0.5]}], "usage": {"computed_tokens": 7}}


def load_that_gets(monkeypatch: pytest.MonkeyPatch, folder: Path, answer: object, pause_seconds: float = 0.0) -> Load:
    load = Load(WatchedServer(folder), TOLERANCES["float32"], scores=[0.5] * 60)

    async def exchange(body: bytes, address: str) -> bytes:
        await asyncio.sleep(pause_seconds)
        if isinstance(answer, Exception):
            raise answer
        return json.dumps(answer).encode()

    monkeypatch.setattr(load, "_exchange", exchange)
    return load


def call_once(load: Load, place: int) -> None:
    async def call() -> None:
        await load.call("interactive", place, until=asyncio.get_running_loop().time() + 0.01)

    asyncio.run(call())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.mixed_load.THINK_SECONDS", 1e-4)


def test_a_right_answer_counts_with_its_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = load_that_gets(monkeypatch, tmp_path, RIGHT)
    call_once(load, place=1)
    assert load.counts["interactive"]["answered"] == load.counts["interactive"]["sent"] > 0
    assert {one.tokens for one in load.answers["interactive"]} == {7}
    assert not load.faults


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (RIGHT | {"results": [{"scores": [0.51]}]}, "interactive: a wrong score, or none"),
        (RIGHT | {"results": [{"error": {"status": 500}}]}, "interactive: a wrong score, or none"),
        (RIGHT | {"results": []}, "interactive: a wrong score, or none"),
        (ValueError("500"), "interactive: ValueError: 500"),
        (TimeoutError("of the system"), "interactive: TimeoutError: of the system"),
    ],
    ids=["another's", "error", "none", "status", "system"],
)
def test_anything_else_is_a_named_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: object, fault: str
) -> None:
    load = load_that_gets(monkeypatch, tmp_path, answer)
    call_once(load, place=1)
    assert load.counts["interactive"]["failed"] == load.counts["interactive"]["sent"] == load.faults[fault] > 0
    assert not load.answers["interactive"]


def test_the_first_caller_breaks_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = load_that_gets(monkeypatch, tmp_path, RIGHT, pause_seconds=60.0)
    call_once(load, place=0)
    assert load.counts["interactive"]["cancelled"] == load.counts["interactive"]["sent"] > 0
    assert not load.faults


def test_memory_that_grows_has_a_slope() -> None:
    samples = [(float(second), 500.0 + (2.0 * (second - 60) if second > 60 else 0.0)) for second in range(121)]
    figures = Memory(0, [*samples, (121.0, 9999.0)]).figures(settled=61.0, until=120.0)
    assert figures == {"start": 500.0, "median": 500.0, "end": 620.0, "slope_per_minute": 120.0}


def test_latencies_are_of_requests_that_began_in_between() -> None:
    answers = [Answer(began, seconds, 1) for began, seconds in ((0.0, 9.0), (1.0, 0.1), (2.0, 0.3), (3.0, 9.0))]
    assert latencies(answers, 1.0, 3.0) == {"requests": 2, "p50": 0.2, "p95": 0.29, "p99": 0.298}
    assert latencies(answers, 5.0, 6.0) == {"requests": 0}
