"""The folder of a bulk run: gone on with by the same run only, and never believed to hold what it does not."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from app.errors import ArmoserveError, InvalidSetting
from app.main import load_engine
from app.offline_ray import ShardScorer
from app.offline_run import Counts, begin, check_parts, owned, part_of, write_part
from app.offline_shards import InputFile, Shard
from app.settings import read_settings
from tests.checkpoints import write_own_folder

SHARDS = tuple(Shard(number, "/x.jsonl", "x.jsonl", 1 + 2 * number, 0, 1, 2) for number in range(2))
INPUT = InputFile("x.jsonl", "digest", SHARDS)
ANSWERS = [b'{"line":1,"id":"a,\\"error\\":{\\"type\\":","scores":[1.0]}', b'{"line":2,"id":2,"error":{"type":"x"}}']


def test_the_same_run_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        begin(tmp_path, "r1", {"dtype": "auto", "default_preference": {"a": 1.0}}, [INPUT])


@pytest.mark.parametrize(
    ("revision", "options", "inputs", "said"),
    [
        ("r2", {"dtype": "auto"}, [INPUT], "scores of the weights r1, not r2"),
        ("r1", {"dtype": "bfloat16"}, [INPUT], "its dtype is auto, not bfloat16"),
        ("r1", {"dtype": "auto"}, [dataclasses.replace(INPUT, sha256="other")], "x.jsonl is not the input that it was"),
        ("r1", {"dtype": "auto"}, [INPUT, InputFile("y", "", ())], "y is not the input that it was"),
        ("r1", {"dtype": "auto"}, [], "x.jsonl is not the input that it was"),
    ],
)
def test_another_run_is_refused(
    tmp_path: Path, revision: str, options: dict[str, Any], inputs: list[InputFile], said: str
) -> None:
    begin(tmp_path, "r1", {"dtype": "auto"}, [INPUT])
    with pytest.raises(InvalidSetting, match=said):
        begin(tmp_path, revision, options, inputs)


def test_replicas_compute_in_the_numbers_of_the_first(tmp_path: Path) -> None:
    weights = write_own_folder(tmp_path / "weights")
    engine = load_engine(read_settings({"weights": str(weights), "device": "cpu"}))
    (tmp_path / "run").mkdir()

    def replica(dtype: str) -> ShardScorer:
        settings = read_settings({"weights": str(weights), "device": "cpu", "dtype": dtype})
        return ShardScorer(settings, str(tmp_path / "run"), "never", engine.info.revision)

    for _ in range(2):
        replica("float32")
    with pytest.raises(InvalidSetting, match="a replica computes in bfloat16, the run in float32"):
        replica("bfloat16")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.dtype.float32"]


def test_what_describes_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 1}')
    with pytest.raises(InvalidSetting, match="describes no run"):
        begin(tmp_path, "r1", {}, [])


def test_a_folder_is_one_run_s_own_at_a_time_and_loses_torn_parts(tmp_path: Path) -> None:
    (tmp_path / "part-000000.jsonl.7.tmp").write_text("torn")
    with owned(tmp_path), pytest.raises(InvalidSetting, match="written by another run"), owned(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InvalidSetting, match=r"holds thesis\.txt"), owned(tmp_path):
        pass
    with pytest.raises(InvalidSetting, match="cannot be written"), owned(tmp_path / "thesis.txt"):
        pass


def test_parts_of_no_run_are_nobody_s_answers(tmp_path: Path) -> None:
    part_of(tmp_path, SHARDS[0]).write_text("{}\n{}\n")
    with pytest.raises(InvalidSetting, match=r"holds part-000000\.jsonl, which is no run's"), owned(tmp_path):
        pass
    begin(tmp_path, "r1", {}, [INPUT])
    with owned(tmp_path):
        assert check_parts(tmp_path, SHARDS[:1]).num_rows == 2


def test_two_who_write_a_part_at_once_do_not_meet(tmp_path: Path) -> None:
    def answers() -> Any:
        yield ANSWERS[0]
        write_part(tmp_path, SHARDS[0], ANSWERS)
        yield ANSWERS[1]

    write_part(tmp_path, SHARDS[0], answers())
    assert check_parts(tmp_path, SHARDS[:1]) == Counts(num_rows=2, num_errors=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_rows_and_errors_are_counted_and_a_lost_row_is_found(tmp_path: Path) -> None:
    for shard in SHARDS:
        write_part(tmp_path, shard, ANSWERS)
    assert check_parts(tmp_path, SHARDS) == Counts(num_rows=4, num_errors=2)
    write_part(tmp_path, SHARDS[1], ANSWERS[:1])
    with pytest.raises(ArmoserveError, match=r"part-000001\.jsonl has 1 answers to 2 rows"):
        check_parts(tmp_path, SHARDS)


def test_a_part_is_there_once_it_is_whole(tmp_path: Path) -> None:
    def answers() -> Any:
        yield ANSWERS[0]
        assert not part_of(tmp_path, SHARDS[0]).exists()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_part(tmp_path, SHARDS[0], answers())
    assert not part_of(tmp_path, SHARDS[0]).exists()
