"""Ridge as theorems: equal to scikit-learn's, streamed equal to whole, missing ratings ignored for their objective."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from training.ridge import RidgeFitter, fit_ridge

N, D, K = 300, 12, 5


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Features and ratings where every objective misses some rows, in several patterns."""
    generator = np.random.default_rng(0)
    features_ND = generator.normal(size=(N, D))
    ratings_NK = features_ND @ generator.normal(size=(D, K)) + generator.normal(size=(N, K))
    ratings_NK[generator.random((N, K)) < 0.4] = np.nan
    return features_ND, ratings_NK


def fitted(features_ND: np.ndarray, ratings_NK: np.ndarray, chunk: int = N) -> RidgeFitter:
    fitter = RidgeFitter(D, K)
    for start in range(0, len(features_ND), chunk):
        fitter.update(features_ND[start : start + chunk], ratings_NK[start : start + chunk])
    return fitter


@pytest.mark.parametrize("strength", [1e-4, 1.0, 1e4])
def test_equals_scikit_learn_per_objective(rows: tuple[np.ndarray, np.ndarray], strength: float) -> None:
    features_ND, ratings_NK = rows
    fitter = fitted(features_ND, ratings_NK)
    for objective in range(K):
        present_N = ~np.isnan(ratings_NK[:, objective])
        reference = Ridge(alpha=strength, fit_intercept=False)
        reference.fit(features_ND[present_N], ratings_NK[present_N, objective])
        weights_SD = fitter.weights_SD(objective, (strength,))
        np.testing.assert_allclose(weights_SD[0], reference.coef_, rtol=1e-8, atol=1e-12)


def test_rows_without_a_rating_would_change_the_answer(rows: tuple[np.ndarray, np.ndarray]) -> None:
    """The negative control: a missing rating taken for a zero is seen."""
    features_ND, ratings_NK = rows
    right = fitted(features_ND, ratings_NK).weights_SD(0, (1.0,))
    wrong = fitted(features_ND, np.nan_to_num(ratings_NK)).weights_SD(0, (1.0,))
    assert np.abs(right - wrong).max() > 0.05


def test_streamed_equals_batch(rows: tuple[np.ndarray, np.ndarray]) -> None:
    whole, streamed = fitted(*rows), fitted(*rows, chunk=17)
    for objective in range(K):
        np.testing.assert_allclose(
            streamed.weights_SD(objective, (0.1,)), whole.weights_SD(objective, (0.1,)), rtol=1e-9, atol=1e-12
        )
    assert streamed.gram_of_pattern.keys() == whole.gram_of_pattern.keys()


def test_errors_from_the_statistics_equal_errors_from_the_rows(rows: tuple[np.ndarray, np.ndarray]) -> None:
    features_ND, ratings_NK = rows
    fitter = fitted(features_ND, ratings_NK)
    weights_SD = fitter.weights_SD(2, (0.1, 10.0))
    for weight_D, error in zip(weights_SD, fitter.mean_squared_errors_S(2, weights_SD), strict=True):
        assert error == pytest.approx(np.nanmean((features_ND @ weight_D - ratings_NK[:, 2]) ** 2))


def test_strength_is_the_best_on_validation_and_not_on_training(rows: tuple[np.ndarray, np.ndarray]) -> None:
    features_ND, ratings_NK = rows
    half = N // 10
    train, validation = fitted(features_ND[:half], ratings_NK[:half]), fitted(features_ND[half:], ratings_NK[half:])
    strengths = (1e-4, 1e-2, 1.0, 1e2, 1e4)
    fit = fit_ridge(train, validation, strengths)
    for objective in range(K):
        errors = [
            np.nanmean((features_ND[half:] @ train.weights_SD(objective, (s,))[0] - ratings_NK[half:, objective]) ** 2)
            for s in strengths
        ]
        assert fit.strength_K[objective] == strengths[int(np.argmin(errors))]
        assert fit.validation_error_K[objective] == pytest.approx(min(errors))
    assert fit_ridge(train, train, strengths).strength_K.max() == 1e-4, "the training part always wants the weakest"


def test_an_objective_without_validation_rows_takes_the_middle_strength(rows: tuple[np.ndarray, np.ndarray]) -> None:
    features_ND, ratings_NK = rows
    without = ratings_NK.copy()
    without[:, 1] = np.nan
    fit = fit_ridge(fitted(features_ND, ratings_NK), fitted(features_ND, without), (1e-2, 1.0, 1e2))
    assert fit.strength_K[1] == 1.0
    assert np.isnan(fit.validation_error_K[1])
