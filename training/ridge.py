"""Stage 1 of ArmoRM: linear probing of frozen features, one ridge regression per objective (Eq. 1). Closed form.

    weight_k = argmin_w  Σ_n (w · f_n − rating_nk)² + strength_k ‖w‖²          over the n whose rating k is there

The fitter keeps sufficient statistics only, a Gram matrix per distinct pattern of present ratings and the moments,
so it streams over features in O(patterns · D²) memory. Everything is float64: a Gram matrix squares the condition.

N labelled conversations · D hidden size · K objectives · S strengths
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.artifacts import Features, RegressionFit, Workspace
from training.configs import Recipe

Float64Array = NDArray[np.float64]
CHUNK_ROWS: Final = 8192


@dataclass(slots=True)
class RidgeFitter:
    """Running statistics of features and ratings."""

    hidden_size: int
    num_objectives: int
    gram_of_pattern: dict[bytes, Float64Array] = field(default_factory=dict)
    """Σ f fᵀ (D, D) over the rows with exactly these ratings present."""
    moments_KD: Float64Array = field(init=False)
    squares_K: Float64Array = field(init=False)
    count_K: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.moments_KD = np.zeros((self.num_objectives, self.hidden_size))
        self.squares_K = np.zeros(self.num_objectives)
        self.count_K = np.zeros(self.num_objectives, dtype=np.int64)

    def update(self, features_ND: NDArray[np.floating], ratings_NK: NDArray[np.floating]) -> None:
        """Take in N rows; a missing rating is NaN and counts for its objective only."""
        present_NK = ~np.isnan(ratings_NK)
        filled_NK = np.where(present_NK, ratings_NK, 0.0).astype(np.float64)
        self.moments_KD += filled_NK.T @ features_ND.astype(np.float64)
        self.squares_K += (filled_NK**2).sum(axis=0)
        self.count_K += present_NK.sum(axis=0)
        patterns, pattern_of_row = np.unique(present_NK, axis=0, return_inverse=True)
        for index, pattern_K in enumerate(patterns):
            rows_ND = features_ND[pattern_of_row.reshape(-1) == index].astype(np.float64)
            gram_DD = self.gram_of_pattern.setdefault(
                pattern_K.tobytes(), np.zeros((self.hidden_size, self.hidden_size))
            )
            gram_DD += rows_ND.T @ rows_ND

    def gram_DD(self, objective: int) -> Float64Array:
        """Return Σ f fᵀ over the rows that rate `objective`."""
        total_DD = np.zeros((self.hidden_size, self.hidden_size))
        for pattern, gram_DD in self.gram_of_pattern.items():
            if np.frombuffer(pattern, dtype=bool)[objective]:
                total_DD += gram_DD
        return total_DD

    def weights_SD(self, objective: int, strengths: tuple[float, ...]) -> Float64Array:
        """Return the ridge solution for each strength: one eigendecomposition serves them all."""
        eigenvalues_D, vectors_DD = np.linalg.eigh(self.gram_DD(objective))
        eigenvalues_D = np.maximum(eigenvalues_D, 0.0)  # a Gram matrix has none below zero but for rounding
        projected_D = vectors_DD.T @ self.moments_KD[objective]
        shrunk_SD = projected_D / (eigenvalues_D + np.asarray(strengths)[:, None])
        solution_SD: Float64Array = shrunk_SD @ vectors_DD.T
        return solution_SD

    def mean_squared_errors_S(self, objective: int, weights_SD: Float64Array) -> Float64Array:
        """Return the mean squared error of each weight vector on these rows, from the statistics alone."""
        quadratic_S = np.einsum("sd,de,se->s", weights_SD, self.gram_DD(objective), weights_SD)
        errors_S: Float64Array = quadratic_S - 2 * weights_SD @ self.moments_KD[objective] + self.squares_K[objective]
        return errors_S / max(1, int(self.count_K[objective]))


def fit_ridge(train: RidgeFitter, validation: RidgeFitter, strengths: tuple[float, ...]) -> RegressionFit:
    """Solve every objective, its strength chosen by the validation part's squared error.

    An objective without a validation row takes the middle strength.
    """
    weight_KD = np.zeros_like(train.moments_KD)
    strength_K, error_K = np.zeros(train.num_objectives), np.full(train.num_objectives, np.nan)
    for objective in range(train.num_objectives):
        weights_SD = train.weights_SD(objective, strengths)
        best = len(strengths) // 2
        if validation.count_K[objective]:
            errors_S = validation.mean_squared_errors_S(objective, weights_SD)
            best = int(np.argmin(errors_S))
            error_K[objective] = errors_S[best]
        weight_KD[objective], strength_K[objective] = weights_SD[best], strengths[best]
    return RegressionFit(
        weight_KD=weight_KD.astype(np.float32),
        strength_K=strength_K,
        validation_error_K=error_K,
        num_ratings_K=train.count_K,
    )


def run(recipe: Recipe, workspace: Workspace) -> None:
    """Fit the regression layer on the training part of the features."""
    features = workspace.load(Features)
    fitters = {part: RidgeFitter(features.hidden_size, features.num_objectives) for part in (False, True)}
    for start in range(0, features.num_responses, CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        for part, fitter in fitters.items():
            chosen_N = features.is_validation_R[rows] == part
            fitter.update(features.features_RD[rows][chosen_N], features.ratings_RK[rows][chosen_N])
    workspace.save(fit_ridge(fitters[False], fitters[True], recipe.ridge.strengths))
