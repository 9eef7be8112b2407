"""What the benchmark of `batch_invariant` says of a tiny model is true of it. No timing is asserted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from app.model import reward_model
from app.model.reward_model import RewardModel
from app.model.weights import load_reward_model
from benchmarks.batch_invariance import main
from benchmarks.company import moved, num_changed, scored_in_packs
from benchmarks.random_checkpoint import LlamaSize, write_random_checkpoint
from benchmarks.workloads import random_pool

SIZE = LlamaSize(layers=2, width=64, vocabulary=500)
GIVEN = [one for one in random_pool(SIZE.vocabulary, 60) if one.num_tokens < 300][:22]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_random_checkpoint(folder, SIZE)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> RewardModel:
    return load_reward_model(folder, device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_conversation_is_scored_in_its_place(model: RewardModel) -> None:
    alone = scored_in_packs(model, GIVEN, 1)
    assert len(set(alone.tolist())) == len(GIVEN)
    for company, budget in ((7, 10**9), (7, 500)):
        np.testing.assert_allclose(scored_in_packs(model, GIVEN, company, budget), alone, atol=1e-5)


def test_company_moves_scores_by_little_and_a_wrong_one_by_much(
    model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(moved(model, GIVEN, (2, 11)))
    assert [(row.company, row.recalled) for row in rows] == [(2, False), (11, False), (1, True), (2, True), (11, True)]
    assert max(row.largest_in_deviations for row in rows) < 1e-3
    assert any(row.share_changed > 0 for row in rows)
    forward = model.forward

    def spoilt(pack):
        output = forward(pack)
        if pack.num_responses == 11:
            output.scores_R[0] += 1.0
        return output

    monkeypatch.setattr(model, "forward", spoilt)
    spoilt_row = next(iter(moved(model, GIVEN, (11,))))
    assert spoilt_row.largest == pytest.approx(1.0, abs=1e-3)
    assert spoilt_row.largest_in_deviations > 1


def test_a_bit_that_differs_is_counted(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_changed(model, GIVEN, 1024, 11) == 0
    monkeypatch.setattr(reward_model, "padded", lambda token_ids, num_tokens: token_ids)
    monkeypatch.setattr(reward_model, "read_in_rows", lambda read, *features: read(*features))
    assert num_changed(model, GIVEN, 1024, 11) > 0


def test_the_command_writes_both_tables(folder: Path, tmp_path: Path) -> None:
    few = ["--rounds", "1", "--conversations", "22", "--mixed", "6", "--pack-tokens", "2048", "1024"]
    main([*few, "--weights", str(folder), "--data", str(tmp_path / "none"), "--out", str(tmp_path)])
    written = json.loads((tmp_path / "batch_invariance.json").read_text())
    assert {(row["dtype"], row["max_pack_tokens"]) for row in written["costs"]} == {
        (dtype, tokens) for dtype in ("float32", "bfloat16") for tokens in (1024, 2048)
    }
    assert all(row["ratio"] > 0 for row in written["costs"])
    assert len(written["moved"]) == 2 * 9
    page = (tmp_path / "batch_invariance.md").read_text()
    assert "| float32 | 2,048 | one short request | 1 |" in page
    assert "random ids" in page


def test_packs_that_are_too_short_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--pack-tokens", "512"])
    assert "--pack-tokens: 512; allowed: from 1024" in capsys.readouterr().err
