"""What the benchmarks of ridge and gating claim by formula, held at a small size: memory and flops, never time."""

import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import training.ridge
from benchmarks import gating_scale, ridge_scale
from benchmarks.ridge_scale import STRENGTHS, Rates, Scale, predict, synthetic_rows
from training.gating_pairs import read_pairs
from training.ridge import RidgeFitter

WIDTH, CHUNK_ROWS = 256, 64


def peak_bytes_of_ridge(scale: Scale, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(training.ridge, "CHUNK_ROWS", CHUNK_ROWS)
    batches = list(synthetic_rows(scale, scale.rows, seed=0))
    tracemalloc.start()
    fitter = RidgeFitter(scale.hidden_size, scale.objectives)
    for features_ND, ratings_NK in batches:
        fitter.update(features_ND, ratings_NK)
    fitter.weights_KSD(STRENGTHS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("patterns", [1, 4, 8])
def test_memory_of_ridge_is_what_the_formula_says_whatever_the_rows(
    patterns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = Scale(rows=2_000, hidden_size=WIDTH, objectives=8, patterns=patterns)
    more = dataclasses.replace(scale, rows=12_000)
    predicted = 8 * WIDTH**2 * (patterns + 3) + 8 * CHUNK_ROWS * WIDTH
    for each in (scale, more):
        assert 0.9 < peak_bytes_of_ridge(each, monkeypatch) / predicted < 1.25


def test_the_formula_is_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge_scale, "CHUNK_ROWS", CHUNK_ROWS)
    cost = predict(Scale(rows=1000, hidden_size=WIDTH, patterns=8), Rates(1e9, 1e-9))
    assert cost.peak_bytes == 8 * WIDTH**2 * 11 + 8 * CHUNK_ROWS * WIDTH
    assert cost.statistics_seconds == pytest.approx(1000 * WIDTH**2 / 2 / 1e9)
    assert cost.solutions_seconds == pytest.approx(8 * WIDTH**3 * 1e-9)


def test_flops_of_gating_are_counted_from_its_weights() -> None:
    scale = gating_scale.paper(pairs=100)
    head = gating_scale.random_head(scale)
    assert head.gating is not None
    sizes = [parameter.numel() for parameter in head.gating.parameters() if parameter.ndim == 2]
    assert scale.flops_per_step == 1024 * (6 * sum(sizes) - 2 * sizes[0])


def test_memory_of_gating_is_its_rewards_and_not_its_features(tmp_path: Path) -> None:
    """Response features of all pairs would be ten times what is kept; prompt features are in the file."""
    scale = dataclasses.replace(gating_scale.default(), pairs=4_000)
    train, validation = read_pairs(gating_scale.random_head(scale), gating_scale.shards(scale), tmp_path / "prompts")
    kept = sum(array.nbytes for pairs in (train, validation) for array in (pairs.rewards_B2K, pairs.prompt_of_pair_B))
    assert kept == 4_000 * (2 * scale.objectives * 4 + 8)
    assert kept < 4_000 * 2 * scale.hidden_size * 4 / 10
    assert (tmp_path / "prompts").stat().st_size == 4_000 * scale.hidden_size * 4
    assert np.isfinite(train.prompt_features_PD.numpy()).all()


def test_ridge_is_measured_through_its_fitter_and_recovers_what_rows_were_made_with() -> None:
    scale = Scale(rows=6_000, validation_rows=500, hidden_size=32, objectives=4, patterns=2)
    cost, error = ridge_scale.measure(scale)
    assert error == pytest.approx(ridge_scale.NOISE**2, rel=0.2)
    assert "| sums over the rows, CPU s |" in ridge_scale.table(cost, cost)


def test_gating_is_measured_through_its_stage_and_written(tmp_path: Path) -> None:
    scale = dataclasses.replace(gating_scale.default(), pairs=300)
    few_steps = dataclasses.replace(scale, config=dataclasses.replace(scale.config, steps=2, validate_every_steps=1))
    document = {
        "paper": gating_scale.measure_paper(scale, 2, tmp_path / "paper"),
        "default": gating_scale.measure_default(few_steps, tmp_path / "default"),
    }
    assert document["default"]["steps"] == 2
    paper = document["paper"]
    assert paper["extrapolated_hours"] == pytest.approx(paper["seconds_per_step"] * 1000 / 3600)
    gating_scale.write(tmp_path, document, {"cores": "2"})
    assert "**extrapolated**, not run" in (tmp_path / "gating_scale.md").read_text()
