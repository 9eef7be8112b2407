import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from app.api.ndjson import LineScoring
from app.errors import ArmoserveError, PreferenceRequired
from app.main import start_model
from app.offline import score_file
from app.settings import read_settings
from tests.api.fake_engine import UNGATED, FakeEngine


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def score(source: Path, to: Path, fake: FakeEngine | None = None, *, resume: bool = False, **settings: str) -> int:
    engine = (fake or FakeEngine()).engine()
    return score_file(engine, read_settings(settings), source, to, truncation="never", resume=resume)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "items.jsonl"
    rows = [
        json.dumps({"id": "first", "prompt": "a", "responses": ["b", "cc"]}),
        "",
        "not json",
        json.dumps({"prompt": "a", "response": "b", "id": 7}),
        json.dumps({"id": "long", "prompt": "a" * 999, "response": "b"}),
        json.dumps({"prompt": "a", "responses": []}),
        *(json.dumps({"prompt": "a", "response": "x" * number}) for number in range(200)),
    ]
    path.write_text("\n".join(rows))
    return path


def test_one_line_out_per_line_in_in_order_with_its_id(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert score(source, out) == 3
    results = lines_of(out)
    assert [result["line"] for result in results] == [1, *range(3, 207)]
    assert [result.get("id") for result in results[:4]] == ["first", None, 7, "long"]
    assert results[0]["best"] == 1
    assert results[1]["error"]["type"] == "malformed-body"  # type: ignore[index]
    assert results[3]["error"]["type"] == "too-many-tokens"  # type: ignore[index]
    assert results[4]["error"]["type"] == "invalid-conversation"  # type: ignore[index]
    assert [result["tokens"]["responses"] for result in results[5:]] == [[n + 1] for n in range(200)]  # type: ignore[index]


def test_a_run_that_was_cut_off_goes_on_where_it_was(source: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    score(source, whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    fake = FakeEngine()
    score(source, cut, fake, resume=True)
    assert [line["line"] for line in lines_of(cut)] == [line["line"] for line in lines_of(whole)]
    assert 0 < fake.num_scored < 150
    score(source, cut, untouched := FakeEngine(), resume=True)
    assert untouched.num_scored == 0


def test_without_resume_the_output_is_written_anew(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    score(source, out)
    score(source, out)
    assert len(lines_of(out)) == 205


@pytest.mark.parametrize(
    "content",
    ["precious\nnotes\n", "precious", '{"line":1}\nprecious', '{"liner": "notes"}', '{"line":"notes"}', "7\n"],
)
def test_what_is_no_output_of_ours_is_not_resumed_and_not_harmed(source: Path, tmp_path: Path, content: str) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(content)
    with pytest.raises(ArmoserveError, match="cannot be resumed"):
        score(source, other, resume=True)
    assert other.read_text() == content


@pytest.mark.parametrize("num_bytes", range(1, 24))
def test_a_last_line_torn_anywhere_is_written_anew(tmp_path: Path, num_bytes: int) -> None:
    source, out = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "first", "prompt": "a", "response": "b"}\n')
    score(source, out)
    whole = out.read_bytes()
    out.write_bytes(whole[:num_bytes])
    score(source, out, resume=True)
    assert out.read_bytes() == whole


def test_lines_are_read_as_there_is_room(source: Path) -> None:
    read: list[int] = []

    def lines() -> Iterator[tuple[int, bytes]]:
        for number in range(1, 101):
            read.append(number)
            yield number, b'{"prompt": "a", "response": "b"}'

    async def run() -> None:
        model = await start_model(FakeEngine().engine(), read_settings(), CollectorRegistry(), print)
        results = LineScoring(model, in_flight=4).results(lines())
        for finished in range(1, 11):
            await anext(results)
            assert len(read) <= finished + 4
        await results.aclose()
        await model.service.stop()

    asyncio.run(run())


def test_weights_that_need_a_preference_say_so_before_they_begin(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PreferenceRequired, match="--default-preference"):
        score(source, tmp_path / "out.jsonl", FakeEngine(UNGATED))
    assert score(source, tmp_path / "out.jsonl", FakeEngine(UNGATED), default_preference="questions:1") == 3


def test_what_the_queue_cannot_take_at_once_waits(tmp_path: Path) -> None:
    source = tmp_path / "items.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": letter * 250, "response": "b"}) for letter in "abc"))
    assert score(source, tmp_path / "out.jsonl", max_queued_tokens="300") == 0
