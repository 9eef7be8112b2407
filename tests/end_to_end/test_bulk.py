"""`python -m app score --ray` on a local Ray: killed and gone on with, it says what `score` without Ray says."""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from app.__main__ import main
from tests.checkpoints import write_own_folder
from tests.end_to_end.processes import REPOSITORY, wait_until

ray = pytest.importorskip("ray")

NUM_ROWS = 1600
BATCH_ROWS = 40
NUM_SHARDS = NUM_ROWS // BATCH_ROWS
CORRUPT = 777


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One Ray for all runs of this file; a killed driver leaves it up, as it would leave a cluster."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
            environment.setenv(name, value)
        context = ray.init(num_cpus=2, include_dashboard=False, address="local", log_to_driver=False)
        yield context.address_info["gcs_address"]
        ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and the same rows twice: all as lines; half as lines, a quarter gzipped, a quarter as parquet."""
    folder = tmp_path_factory.mktemp("bulk")
    write_own_folder(folder / "weights")
    rows = [{"id": n, "prompt": f"question {n % 97}", "response": f"answer {n % 13}"} for n in range(NUM_ROWS)]
    lines = [json.dumps(row) + "\n" for row in rows]
    lines[CORRUPT] = '{"id": 777, "prompt": "question\n'
    half, three_quarters = NUM_ROWS // 2, NUM_ROWS * 3 // 4
    (folder / "items").mkdir()
    (folder / "all.jsonl").write_text("".join(lines))
    (folder / "items" / "a.jsonl").write_text("".join(lines[:half]))
    (folder / "items" / "b.jsonl.gz").write_bytes(gzip.compress("".join(lines[half:three_quarters]).encode()))
    parquet.write_table(pa.Table.from_pylist(rows[three_quarters:]), folder / "items" / "c.parquet")
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    given = ["score", str(folder / "items"), "--ray", "-o", str(folder / "out"), "--batch-rows", str(BATCH_ROWS)]
    return [*given, "--weights", str(folder / "weights"), *more]


def finished(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("part-*.jsonl")}


def kill_in_the_middle(folder: Path, address: str) -> None:
    environment = os.environ | {"RAY_ADDRESS": address}
    command = [sys.executable, "-m", "app", *arguments(folder)]
    driver = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: bool(finished(folder)))
    finally:
        driver.kill()
        driver.wait()


def settled(folder: Path) -> dict[str, int]:
    """Wait for what the killed driver's actor was about to write."""
    before = finished(folder)
    while True:
        time.sleep(0.5)
        after = finished(folder)
        if after == before:
            return after
        before = after


def answers_of(*parts: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def test_killed_and_run_again_each_row_has_the_one_answer_that_it_has_without_ray(
    cluster: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_in_the_middle(folder, cluster)
    done = settled(folder)
    assert 0 < len(done) < NUM_SHARDS
    assert main(arguments(folder)) == 1
    assert "1 lines are errors" in capsys.readouterr().err
    after = finished(folder)
    assert len(after) == NUM_SHARDS
    assert {name: after[name] for name in done} == done  # nothing was computed twice

    main(["score", str(folder / "all.jsonl"), "-o", str(folder / "plain.jsonl"), "--weights", str(folder / "weights")])
    plain = sorted(answers_of(folder / "plain.jsonl"), key=lambda answer: answer["line"])
    bulk = answers_of(*(folder / "out" / name for name in sorted(after)))
    places = {(Path(answer.pop("file")).name, answer.pop("line")) for answer in bulk}
    assert len(places) == NUM_ROWS == len(bulk)
    for expected, answer in zip(plain, bulk, strict=True):
        if "error" in expected:
            assert expected["line"] == CORRUPT + 1
            expected["id"] = answer.pop("id")  # without an id that can be read, a row is called by its line
        del expected["line"]
        if "scores" in expected:
            assert answer.pop("scores") == pytest.approx(expected.pop("scores"), abs=1e-5)
        assert answer == {name: value for name, value in expected.items() if name in answer}
        assert answer.keys() == expected.keys() - ({"id"} if "error" in expected else set())


def test_a_finished_run_has_nothing_left_and_another_is_refused_before_ray_is_asked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finished(folder)
    assert len(before) == NUM_SHARDS
    assert main(arguments(folder)) == 1
    assert finished(folder) == before
    assert main(arguments(folder, "--truncate", "prompt_left")) == 2
    assert "its truncate is never, not prompt_left" in capsys.readouterr().err
    with (folder / "items" / "a.jsonl").open("a") as items:
        items.write("{}\n")
    assert main(arguments(folder)) == 2
    assert "a.jsonl is not the input that it was" in capsys.readouterr().err
    (folder / "weights" / "moslim.safetensors").write_bytes(b"altered")
    assert main(arguments(folder)) == 2
    assert finished(folder) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--replicas", "7"], "--replicas 7 is not allowed: each takes 1 CPU, and Ray has 2; allowed: up to 2"),
        (["--gpus-per-replica", "1"], "each takes 1 GPU, and Ray has 0; allowed: up to 0"),
        (["--device", "cuda:1"], "--ray chooses the GPUs"),
        (["--overwrite"], "--ray needs --output FOLDER"),
    ],
)
def test_what_ray_has_not_is_refused(
    cluster: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    write_own_folder(tmp_path / "weights")
    where = [str(folder / "all.jsonl"), "--ray", "-o", str(tmp_path / "out"), "--weights", str(tmp_path / "weights")]
    assert main(["score", *where, *more]) == 2
    assert said in capsys.readouterr().err


def test_options_of_ray_need_ray_and_answers_are_no_inputs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(folder / "all.jsonl"), "--replicas", "2"]) == 2
    assert "need --ray" in capsys.readouterr().err
    assert main(["score", str(folder), "--ray", "-o", str(folder / "inside")]) == 2
    assert "its answers would be inputs" in capsys.readouterr().err
