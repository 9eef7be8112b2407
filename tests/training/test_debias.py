"""Debiasing as theorems, with SciPy as the oracle and the correlation before as the negative control."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from training.debias import CORRELATIONS, find_penalty, reward_transform

N = 4000
VERBOSITY = 2


@pytest.fixture
def rewards_NK() -> np.ndarray:
    """Four objectives: rising with verbosity, rising steeply, verbosity itself, falling with verbosity."""
    generator = np.random.default_rng(0)
    verbosity_N = generator.gamma(2.0, size=N)
    noise_NK = generator.normal(size=(N, 3))
    columns = [
        0.5 * verbosity_N + noise_NK[:, 0],
        np.exp(verbosity_N / 2) + noise_NK[:, 1],
        verbosity_N,
        -0.3 * verbosity_N + noise_NK[:, 2],
    ]
    return np.stack(columns, axis=1)


def test_spearman_vanishes_and_was_there_before(rewards_NK: np.ndarray) -> None:
    transform = reward_transform(rewards_NK, VERBOSITY)
    debiased_NK = rewards_NK @ transform.matrix_KK.astype(np.float64)
    for objective in range(4):
        before = spearmanr(rewards_NK[:, objective], rewards_NK[:, VERBOSITY]).statistic
        assert transform.before_K[objective] == pytest.approx(before)
        penalty = -transform.matrix_KK[VERBOSITY, objective]
        if objective == VERBOSITY:
            continue
        if penalty == 0:
            assert before <= 0
        else:
            assert before > 0.3
            assert abs(spearmanr(debiased_NK[:, objective], rewards_NK[:, VERBOSITY]).statistic) <= 0.0051
            assert abs(transform.after_K[objective]) <= 0.005


def test_penalties_are_never_negative_and_only_rising_objectives_have_one(rewards_NK: np.ndarray) -> None:
    matrix_KK = reward_transform(rewards_NK, VERBOSITY).matrix_KK
    penalties = -matrix_KK[VERBOSITY]
    assert penalties[0] > 0
    assert penalties[1] > 0
    assert penalties[3] == 0


def test_verbosity_drops_out_and_nothing_else_is_mixed(rewards_NK: np.ndarray) -> None:
    matrix_KK = reward_transform(rewards_NK, VERBOSITY).matrix_KK
    assert matrix_KK[VERBOSITY, VERBOSITY] == 0
    others = [0, 1, 3]
    np.testing.assert_array_equal(matrix_KK[np.ix_(others, others)], np.eye(3))
    np.testing.assert_array_equal(matrix_KK[others, VERBOSITY], 0)


def test_a_halved_penalty_leaves_correlation(rewards_NK: np.ndarray) -> None:
    penalty = find_penalty(rewards_NK[:, 0], rewards_NK[:, VERBOSITY])
    half_N = rewards_NK[:, 0] - penalty / 2 * rewards_NK[:, VERBOSITY]
    assert spearmanr(half_N, rewards_NK[:, VERBOSITY]).statistic > 0.1


def test_pearson_has_the_closed_form(rewards_NK: np.ndarray) -> None:
    reward_N, verbosity_N = rewards_NK[:, 0], rewards_NK[:, VERBOSITY]
    penalty = find_penalty(reward_N, verbosity_N, CORRELATIONS["pearson"], tolerance=1e-9)
    assert penalty == pytest.approx(np.cov(reward_N, verbosity_N)[0, 1] / np.var(verbosity_N, ddof=1), rel=1e-6)
    assert abs(pearsonr(reward_N - penalty * verbosity_N, verbosity_N).statistic) <= 1e-9


def test_a_large_penalty_is_found() -> None:
    generator = np.random.default_rng(1)
    verbosity_N = generator.normal(size=N) * 1e-3
    reward_N = 500 * verbosity_N + generator.normal(size=N) * 1e-2
    assert find_penalty(reward_N, verbosity_N) == pytest.approx(500, rel=0.05)


def test_perfect_dependence_ends() -> None:
    """Where reward is a multiple of verbosity no λ gives |ρ| ≤ tolerance but a constant: the search still stops."""
    verbosity_N = np.linspace(0, 1, 50)
    assert find_penalty(3 * verbosity_N, verbosity_N, tolerance=0.0) == pytest.approx(3.0)
