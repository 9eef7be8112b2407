"""The population stability index by hand, its windows, and what it says before there is enough to say."""

import math

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from app.serving.drift import WINDOW_SCORES, ScoreDrift, population_stability_index
from app.serving.metrics import Metrics
from tests.serving.harness import INFO
from tests.serving.test_metrics import readout

UNIFORM = tuple(n / 100 for n in range(101))


def test_the_index_by_hand() -> None:
    # shares (2.5, 2.5) / 5 against (3.5, 1.5) / 5: 0.2 ln 1.4 - 0.2 ln 0.6
    assert population_stability_index([2, 2], [3, 1]) == pytest.approx(0.2 * math.log(1.4) - 0.2 * math.log(0.6))
    assert population_stability_index([2, 2], [3, 1]) == pytest.approx(0.169460, abs=1e-6)
    assert population_stability_index([3, 1], [2, 2]) == population_stability_index([2, 2], [3, 1])
    assert population_stability_index([10, 20, 30], [10, 20, 30]) == 0


def test_an_empty_bin_is_finite_on_either_side() -> None:
    # shares (0.5, 0.5) against (0.9, 0.1): 0.4 ln 1.8 - 0.4 ln 0.2
    by_hand = 0.4 * math.log(1.8) - 0.4 * math.log(0.2)
    assert population_stability_index([2, 2], [4, 0]) == pytest.approx(by_hand)
    assert population_stability_index([4, 0], [2, 2]) == pytest.approx(by_hand)


def test_a_window_in_one_decile_of_the_reference_by_hand() -> None:
    drift = ScoreDrift(UNIFORM, window_scores=10)
    drift.observe(np.full(10, 0.05))
    # ten bins of (1 + 0.5) / 15 each, against (10.5, 0.5, …) / 15
    in_first = (10.5 - 1.5) / 15 * math.log(7)
    in_others = 9 * (0.5 - 1.5) / 15 * math.log(1 / 3)
    assert drift.read() == {"reference": pytest.approx(in_first + in_others)}


def test_what_falls_as_the_reference_does_has_no_drift() -> None:
    drift = ScoreDrift(UNIFORM, window_scores=100)
    drift.observe((np.arange(100) + 0.5) / 100)
    assert drift.read()["reference"] == pytest.approx(0, abs=1e-12)
    drift.observe((np.arange(100) + 0.5) / 100 + 0.3)
    assert drift.read()["reference"] > 0.25
    assert drift.read()["previous"] > 0.25


def test_nothing_is_said_before_a_window_is_full() -> None:
    drift = ScoreDrift(UNIFORM, window_scores=4)
    assert drift.read() == {}
    drift.observe([0.1, 0.4, 0.6])
    assert drift.read() == {}
    drift.observe([0.9])
    assert set(drift.read()) == {"reference"}
    drift.observe([0.1, 0.4, 0.6])
    assert set(drift.read()) == {"reference"}
    drift.observe([0.9])
    assert set(drift.read()) == {"reference", "previous"}
    assert drift.read()["previous"] == 0


def test_weights_without_quantiles_are_only_held_against_themselves() -> None:
    drift = ScoreDrift((), window_scores=2)
    drift.observe([1.0, 2.0, 1.0, 2.0])
    assert drift.read() == {"previous": 0.0}


@pytest.mark.parametrize("chunk", [1, 3, 7, 50, 400])
def test_windows_roll_however_scores_come_in(chunk: int) -> None:
    scores = np.random.default_rng(0).normal(size=333)
    drift = ScoreDrift(UNIFORM, window_scores=50)
    for start in range(0, len(scores), chunk):
        drift.observe(scores[start : start + chunk])
    alone = ScoreDrift(UNIFORM, window_scores=50)
    alone.observe(scores[-100:])
    assert drift.read() == alone.read()
    reversed_windows = ScoreDrift(UNIFORM, window_scores=50)
    reversed_windows.observe(np.concatenate([scores[-50:], scores[-100:-50]]))
    assert drift.read() != reversed_windows.read()


def test_what_has_left_both_windows_is_forgotten() -> None:
    drift = ScoreDrift(UNIFORM, window_scores=10)
    drift.observe(np.linspace(0, 1, 20))
    drift.observe(np.full(10, 99.0))
    assert drift.read()["previous"] > 1, "what jumped alerts"
    drift.observe(np.full(10, 99.0))
    assert drift.read()["previous"] == 0, "and is what is usual now"
    assert drift.read()["reference"] > 1, "while it is still far from the reference"


def test_equal_quantiles_are_one_bin_with_the_share_of_all_of_them() -> None:
    # Half of the reference is exactly 0: the first four deciles are equal, and so is the fifth.
    half_zero = (0.0,) * 51 + tuple(n / 50 for n in range(1, 51))
    drift = ScoreDrift(half_zero, window_scores=100)
    drift.observe(np.concatenate([np.zeros(50), (np.arange(50) + 0.5) / 50]))
    assert drift.read()["reference"] == pytest.approx(0, abs=1e-12)


def test_a_constant_reference_still_says_that_scores_left_it() -> None:
    drift = ScoreDrift((0.5,) * 101, window_scores=100)
    drift.observe(np.full(100, 0.5))
    assert drift.read()["reference"] == 0
    drift.observe(np.full(100, 0.6))
    assert drift.read()["reference"] > 1


def test_a_coarse_reference_is_read_between_its_quantiles() -> None:
    drift = ScoreDrift((0.0, 10.0), window_scores=100)
    drift.observe((np.arange(100) + 0.5) / 10)
    assert drift.read()["reference"] == pytest.approx(0, abs=1e-12)


def test_by_chance_it_is_about_what_the_literature_says() -> None:
    # 2 (B - 1) / N against a sample, (B - 1) / N against what is known.
    random = np.random.default_rng(1)
    read = []
    for _ in range(200):
        drift = ScoreDrift(UNIFORM)
        drift.observe(random.random(2 * WINDOW_SCORES))
        read.append(drift.read())
    assert np.mean([one["previous"] for one in read]) == pytest.approx(18 / WINDOW_SCORES, rel=0.15)
    assert np.mean([one["reference"] for one in read]) == pytest.approx(9 / WINDOW_SCORES, rel=0.15)


def test_it_is_exported_from_readouts_and_begins_anew_with_a_process() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry, INFO)
    labels = {"against": "reference"}
    metrics.observe_readouts([readout(0.5, 0.25)] * (WINDOW_SCORES - 1))
    assert registry.get_sample_value("armoserve_score_drift", labels) is None
    metrics.observe_readouts([readout(0.5, 0.25)])
    drifted = registry.get_sample_value("armoserve_score_drift", labels)
    assert drifted is not None
    assert drifted > 1
    restarted = CollectorRegistry()
    Metrics(restarted, INFO).observe_readouts([readout(0.5, 0.25)])
    assert restarted.get_sample_value("armoserve_score_drift", labels) is None


def test_responses_without_a_score_have_no_drift() -> None:
    registry = CollectorRegistry()
    Metrics(registry, INFO).observe_readouts([readout(0.1, 0.2, None)] * 2 * WINDOW_SCORES)
    for against in ("reference", "previous"):
        assert registry.get_sample_value("armoserve_score_drift", {"against": against}) is None
