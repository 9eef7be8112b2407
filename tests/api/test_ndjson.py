"""`python -m app score`: a file through the same lines as `POST /score/stream`."""

import json
from pathlib import Path

import pytest

from app.errors import ArmoserveError, InferenceFailed, PreferenceRequired
from app.offline import score_file
from app.packing import Pack, PackOutput
from app.settings import read_settings
from tests.api.fake_engine import POISON, UNGATED, FakeEngine, response_texts


class DyingEngine(FakeEngine):
    """One whose thread ends at the first poisoned response."""

    def forward(self, pack: Pack) -> PackOutput:
        if any(POISON in text for text in response_texts(pack)):
            raise SystemExit
        return super().forward(pack)


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
    assert [result.get("id") for result in results[:4]] == ["first", 3, 7, "long"]
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


@pytest.mark.parametrize("engine", [FakeEngine, DyingEngine])
def test_an_engine_that_ends_leaves_no_line_as_an_error(tmp_path: Path, engine: type[FakeEngine]) -> None:
    source, out = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    rows = [{"prompt": "a", "response": POISON if number == 100 else "b"} for number in range(200)]
    source.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InferenceFailed, match=r"beyond repair|has ended"):
        score(source, out, engine())
    source.write_text(source.read_text().replace(json.dumps(POISON), '"b"'))
    assert score(source, out, resume=True) == 0
    assert [line["line"] for line in lines_of(out) if "scores" in line] == list(range(1, 201))


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


def test_weights_that_need_a_preference_say_so_before_they_begin(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PreferenceRequired, match="--default-preference"):
        score(source, tmp_path / "out.jsonl", FakeEngine(UNGATED))
    assert score(source, tmp_path / "out.jsonl", FakeEngine(UNGATED), default_preference="questions:1") == 3


def test_what_the_queue_cannot_take_at_once_waits(tmp_path: Path) -> None:
    source = tmp_path / "items.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": letter * 250, "response": "b"}) for letter in "abc"))
    assert score(source, tmp_path / "out.jsonl", max_queued_tokens="300") == 0


@pytest.mark.parametrize("given", ['"\\ud800"', '"' + "x" * 513 + '"', "1.5", "true", "[]", '{"a": 1}'])
def test_an_id_that_cannot_come_back_is_the_lines_own_error(tmp_path: Path, given: str) -> None:
    source, out = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    source.write_text(f'{{"id": {given}, "prompt": "a", "response": "b"}}\n{{"prompt": "a", "response": "b"}}\n')
    assert score(source, out) == 1
    bad, good = lines_of(out)
    assert (bad["line"], bad["id"]) == (1, 1)
    assert bad["error"]["type"] == "malformed-body"  # type: ignore[index]
    assert bad["error"]["message"].startswith("id")  # type: ignore[index]
    assert good["scores"]


def test_a_line_at_fault_keeps_its_id(tmp_path: Path) -> None:
    source, out = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": "a", "prompt": 5}\n{"id": 7, "responses": []}\n[]\n')
    assert score(source, out) == 3
    assert [(line["line"], line["id"]) for line in lines_of(out)] == [(1, "a"), (2, 7), (3, 3)]
    assert lines_of(out)[2]["error"]["message"] == "the line must be a JSON object"  # type: ignore[index]


def test_a_line_longer_than_a_body_may_be_is_an_error_line(tmp_path: Path) -> None:
    source, out = tmp_path / "items.jsonl", tmp_path / "out.jsonl"
    good = '{"prompt": "a", "response": "b"}'
    source.write_text(f"{good}\n{' ' * 1000}{good}\n{good}")
    assert score(source, out, max_body_bytes="1000") == 1
    assert [line.get("error", {}).get("type") for line in lines_of(out)] == [None, "body-too-large", None]  # type: ignore[attr-defined]
