"""Verbosity debiasing (ArmoRM Eq. 2–3): subtract from each reward what makes it rise with the verbosity reward.

    debiased_i = reward_i − λ_i · reward_v      so that correlation(debiased_i, reward_v) = 0      M[v, i] −= λ_i

Knows rewards only: what verbosity means is the regression's business.

N reference conversations · K objectives · v the verbosity objective
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from training.artifacts import Features, RegressionFit, RewardTransform, Workspace
from training.configs import Recipe
from training.data.objectives import VERBOSITY

Correlation = Callable[[NDArray[np.floating], NDArray[np.floating]], float]
LARGEST_PENALTY: Final = 2.0**40


def spearman(first_N: NDArray[np.floating], second_N: NDArray[np.floating]) -> float:
    """Return Spearman's ρ, 0 where one side is constant."""
    return 0.0 if np.ptp(first_N) == 0 or np.ptp(second_N) == 0 else float(spearmanr(first_N, second_N).statistic)


def pearson(first_N: NDArray[np.floating], second_N: NDArray[np.floating]) -> float:
    """Return Pearson's r, 0 where one side is constant."""
    return 0.0 if np.ptp(first_N) == 0 or np.ptp(second_N) == 0 else float(pearsonr(first_N, second_N).statistic)


CORRELATIONS: Final[dict[str, Correlation]] = {"spearman": spearman, "pearson": pearson}


def find_penalty(
    reward_N: NDArray[np.floating],
    verbosity_N: NDArray[np.floating],
    correlation: Correlation = spearman,
    tolerance: float = 0.005,
) -> float:
    """Return the λ ≥ 0 at which `reward − λ · verbosity` no longer correlates with verbosity (Eq. 3).

    0 where the correlation is not positive to begin with; else the root, by bisection to |ρ| ≤ `tolerance`. The
    correlation falls monotonically in λ: for Spearman's, each pair of rows changes its order at most once.
    """

    def at(penalty: float) -> float:
        return correlation(reward_N - penalty * verbosity_N, verbosity_N)

    if at(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while at(high) > 0 and high < LARGEST_PENALTY:
        low, high = high, 2 * high
    middle = high
    for _ in range(200):  # halving 200 times exhausts float64
        middle = (low + high) / 2
        rho = at(middle)
        if abs(rho) <= tolerance:
            break
        low, high = (middle, high) if rho > 0 else (low, middle)
    return middle


def reward_transform(
    rewards_NK: NDArray[np.floating], verbosity: int, correlation: Correlation = spearman, tolerance: float = 0.005
) -> RewardTransform:
    """Return M with a column per objective; the verbosity objective drops out (λ_v = 1), as in the paper's model."""
    verbosity_N = rewards_NK[:, verbosity].astype(np.float64)
    num_objectives = rewards_NK.shape[-1]
    matrix_KK = np.eye(num_objectives)
    before_K, after_K = np.zeros(num_objectives), np.zeros(num_objectives)
    for objective in range(num_objectives):
        reward_N = rewards_NK[:, objective].astype(np.float64)
        is_verbosity = objective == verbosity
        penalty = 1.0 if is_verbosity else find_penalty(reward_N, verbosity_N, correlation, tolerance)
        matrix_KK[verbosity, objective] -= penalty
        before_K[objective] = correlation(reward_N, verbosity_N)
        after_K[objective] = 0.0 if is_verbosity else correlation(reward_N - penalty * verbosity_N, verbosity_N)
    return RewardTransform(matrix_KK=matrix_KK.astype(np.float32), before_K=before_K, after_K=after_K)


def run(recipe: Recipe, workspace: Workspace) -> None:
    """Choose the penalties on the training part of the features."""
    features, regression = workspace.load(Features), workspace.load(RegressionFit)
    rewards_NK = features.features_RD[~features.is_validation_R] @ regression.weight_KD.T
    correlation = CORRELATIONS[recipe.debias.correlation]
    verbosity = features.objectives.index(VERBOSITY)
    workspace.save(reward_transform(rewards_NK, verbosity, correlation, recipe.debias.tolerance))
