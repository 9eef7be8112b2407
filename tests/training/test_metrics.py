"""Accuracies and intervals, by hand and against SciPy."""

import numpy as np
import pytest
from scipy.stats import binomtest

from training.metrics import (
    accuracy_by_source,
    bootstrap_interval,
    group_means,
    macro_mean,
    subset_accuracy,
    wilson_interval,
)


@pytest.mark.parametrize(("right", "pairs"), [(0, 10), (7, 10), (10, 10), (613, 1000)])
def test_wilson_equals_scipy(right: int, pairs: int) -> None:
    reference = binomtest(right, pairs).proportion_ci(method="wilson")
    assert wilson_interval(right, pairs) == pytest.approx((reference.low, reference.high))


def test_a_tie_is_an_error_and_sources_count_once() -> None:
    accuracy = accuracy_by_source(np.array([1.0, 0.0, -1.0, 2.0]), ["a", "a", "a", "b"])
    assert accuracy == pytest.approx({"a": 1 / 3, "b": 1.0})
    assert macro_mean(accuracy) == pytest.approx(2 / 3)


def test_groups_are_averaged_first() -> None:
    margins_B = np.array([1.0, 1.0, 1.0, -1.0])
    assert group_means((margins_B > 0).astype(float), ["g", "g", "g", "h"]).tolist() == [1.0, 0.0]
    grouped = subset_accuracy("s", "c", margins_B, ["g", "g", "g", "h"])
    assert (grouped.accuracy, grouped.num_pairs, grouped.num_units) == (0.5, 4, 2)
    assert subset_accuracy("s", "c", margins_B, ["1", "2", "3", "4"]).accuracy == 0.75


def test_bootstrap_is_near_the_normal_interval_and_repeats() -> None:
    values_N = (np.random.default_rng(0).random(400) < 0.6).astype(float)
    low, high = bootstrap_interval(values_N)
    spread = 1.96 * values_N.std() / 20
    assert (low, high) == pytest.approx((values_N.mean() - spread, values_N.mean() + spread), abs=0.01)
    assert bootstrap_interval(values_N) == (low, high)
