"""Inputs cut into shards: together they are the whole, however they are packed; what cannot be read is refused."""

import gzip
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from app.api.lines import LineSplitter
from app.api.ndjson import parse_line
from app.domain import Item
from app.errors import ArmoserveError, InvalidSetting, MalformedBody
from app.offline_ray import by_prompt
from app.offline_shards import Shard, ShardReader, find_inputs, plan_inputs

MOST_LINE_BYTES = 200
CONTENT = "\ufeff\n" + "".join(
    [
        "\n",
        "  \r\n",
        '{"prompt": "a"}\n',
        "x" * 300 + "\n",
        "\ufeff{}\n",
        "\ufeff\n",
        *(f'{{"id": {n}}}\n' for n in range(20)),
        "last",
    ]
)


@pytest.fixture
def reader() -> Iterator[ShardReader]:
    with closing(ShardReader(MOST_LINE_BYTES)) as opened:
        yield opened


def plan(path: Path, batch_rows: int) -> tuple[Shard, ...]:
    (planned,) = plan_inputs([path], batch_rows)
    return planned.shards


@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_the_shards_of_a_file_are_its_lines(tmp_path: Path, batch_rows: int, suffix: str, reader: ShardReader) -> None:
    path = tmp_path / f"items{suffix}"
    path.write_bytes(gzip.compress(CONTENT.encode()) if suffix.endswith("gz") else CONTENT.encode())
    splitter = LineSplitter(MOST_LINE_BYTES)
    whole = [*splitter.push(CONTENT.encode()), *splitter.end()]
    shards = plan(path, batch_rows)
    cut = [reader.read(shard) for shard in shards]
    assert [len(lines) for lines in cut] == [shard.num_rows for shard in shards]
    assert [line for lines in cut for line in lines] == whole
    assert [line for shard in reversed(shards) for line in reversed(reader.read(shard))] == whole[::-1]
    assert max(map(len, cut)) == min(batch_rows, len(whole))


def test_rows_of_parquet_are_lines_and_read_in_any_order(tmp_path: Path, reader: ShardReader) -> None:
    path = tmp_path / "items.parquet"
    prompts = [[{"role": "user", "content": f"question {n}"}] for n in range(2500)]
    table = pa.table({"id": list(range(2500)), "prompt": prompts, "response": ["r"] * 2500, "messages": pa.nulls(2500)})
    parquet.write_table(table, path, row_group_size=700)
    shards = plan(path, 400)
    for some in (shards, shards[::-1], shards[1::2]):
        for shard in some:
            lines = reader.read(shard)
            assert [line.number for line in lines] == list(range(shard.start + 1, shard.stop + 1))
            assert [parse_line(line.content or b"").id for line in lines] == list(range(shard.start, shard.stop))


@pytest.mark.parametrize("value", [b"bytes", pa.scalar(3, pa.timestamp("s")), 2.5])
def test_what_is_no_text_in_parquet_is_refused_and_not_converted(
    tmp_path: Path, value: object, reader: ShardReader
) -> None:
    path = tmp_path / "items.parquet"
    parquet.write_table(pa.table({"prompt": pa.array([value]), "response": ["r"]}), path)
    (line,) = reader.read(plan(path, 1)[0])
    assert isinstance(parse_line(line.content or b"").item, MalformedBody)


def test_what_python_has_no_value_for_is_that_row_s_error(tmp_path: Path, reader: ShardReader) -> None:
    path = tmp_path / "items.parquet"
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"], pa.binary()).buffers())
    parquet.write_table(pa.table({"prompt": broken, "response": ["r", "r"]}), path)
    good, bad = (parse_line(line.content or b"").item for line in reader.read(plan(path, 2)[0]))
    assert isinstance(good, Item)
    assert isinstance(bad, MalformedBody)


def test_a_column_that_is_there_twice_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    parquet.write_table(pa.table([["a"], ["b"], ["c"]], names=["prompt", "response", "response"]), path)
    with pytest.raises(InvalidSetting, match="has the column response twice"):
        plan(path, 1)


@pytest.mark.parametrize("content", [b'{"id": 1}\n{"id": 3}\n', b'{"id": 1}\n', b'{"id": 1}\n{"id": 2}\r\n'])
def test_what_came_into_a_file_later_is_not_scored(tmp_path: Path, content: bytes, reader: ShardReader) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id": 2}\n')
    first, second = plan(path, 1)
    path.write_bytes(content)
    assert len(reader.read(first)) == 1
    with pytest.raises(ArmoserveError, match=r"items\.jsonl has changed since the run began"):
        reader.read(second)


def test_numbers_of_shards_go_on_from_file_to_file_and_an_empty_file_has_none(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", "1\n2\n"), ("b.jsonl", "\n"), ("c.ndjson", "3\n"), ("d.txt", "4\n")):
        (tmp_path / name).write_text(content)
    planned = list(plan_inputs(find_inputs([tmp_path]), 1))
    assert [Path(one.file).name for one in planned] == ["a.jsonl", "b.jsonl", "c.ndjson"]
    assert [[shard.number for shard in one.shards] for one in planned] == [[0, 1], [], [2]]


def test_an_input_that_is_not_there_is_none_or_is_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("1\n")
    (tmp_path / "notes.txt").write_text("1\n")
    (tmp_path / "empty").mkdir()
    for wrong in ("absent.jsonl", "notes.txt", "empty"):
        with pytest.raises(InvalidSetting, match=r"is no input; allowed: files that end in .*\.parquet"):
            find_inputs([tmp_path / wrong])
    with pytest.raises(InvalidSetting, match="given twice"):
        find_inputs([tmp_path, tmp_path / "a.jsonl"])


def test_a_file_that_breaks_off_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"%d\n" % n for n in range(9999)))
    for name, content in (("cut.jsonl.gz", whole[:-20]), ("no.jsonl.gz", b"no"), ("no.parquet", b"no")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidSetting, match=f"{name} cannot be read to its end"):
            list(plan_inputs([tmp_path / name], 10))


def test_lines_with_one_prompt_follow_each_other_whatever_else_they_hold(tmp_path: Path, reader: ShardReader) -> None:
    path = tmp_path / "items.jsonl"
    rows = [{"id": n, "prompt": "ab"[n % 2], "response": str(n)} for n in range(6)]
    path.write_text("not json\n7\n" + "\n".join(map(json.dumps, rows)))
    ordered = by_prompt(reader.read(plan(path, 99)[0]))
    assert [line.number for line in ordered] == [1, 2, 3, 5, 7, 4, 6, 8]
