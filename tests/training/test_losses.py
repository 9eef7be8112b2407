"""The losses against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from app.domain import TokenizedConversation
from app.pack_builder import pack_of
from training.losses import bradley_terry_loss, language_model_loss, next_token_indices, regression_loss


def test_every_token_but_the_first_is_predicted_once() -> None:
    conversations = [
        TokenizedConversation((1, 2, 3), (4, 5), 0),
        TokenizedConversation((1, 2, 3), (6,), 0),
        TokenizedConversation((7, 8), (9,), 0),
    ]
    pack = pack_of(conversations)
    predictors_M, targets_M = next_token_indices(pack)
    pairs = sorted(zip(pack.token_ids_T[predictors_M].tolist(), pack.token_ids_T[targets_M].tolist(), strict=True))
    assert pairs == [(1, 2), (2, 3), (3, 4), (3, 6), (4, 5), (7, 8), (8, 9)]


def test_language_model_loss_of_a_uniform_model_is_the_logarithm_of_the_vocabulary() -> None:
    pack = pack_of([TokenizedConversation((1, 2), (3,), 0)])
    loss = language_model_loss(torch.zeros(3, 8), torch.randn(11, 8), pack)
    assert loss.item() == pytest.approx(math.log(11))


def test_only_the_chosen_predictions_are_learned() -> None:
    pack = pack_of([TokenizedConversation((1, 2, 3), (4, 5), 0)])
    hidden_TD = torch.randn(5, 8, requires_grad=True)
    loss = language_model_loss(hidden_TD, torch.randn(11, 8), pack, np.array([0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert hidden_TD.grad is not None
    assert hidden_TD.grad[0].abs().max() > 0
    assert hidden_TD.grad[1:].abs().max() == 0


def test_bradley_terry_by_hand() -> None:
    scores_R = torch.tensor([1.0, 0.0, 3.0], requires_grad=True)
    pairs_B2 = torch.tensor([[0, 1], [1, 2]])
    loss = bradley_terry_loss(scores_R, pairs_B2, 2.0)
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(6))) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert scores_R.grad is not None
    assert scores_R.grad[0] < 0, "a chosen response is pushed up"
    assert scores_R.grad[2] > 0, "a rejected one is pushed down"


def test_regression_counts_each_objective_once_and_missing_ratings_never() -> None:
    ratings_RK = torch.tensor([[1.0, math.nan], [0.0, math.nan], [math.nan, 0.5]])
    predicted_RK = torch.zeros(3, 2, requires_grad=True)
    loss = regression_loss(predicted_RK, ratings_RK, torch.tensor([0.25, 0.5]))
    assert loss.item() == pytest.approx(((1 + 0) / 2 / 0.25 + 0.25 / 0.5) / 2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert predicted_RK.grad is not None
    np.testing.assert_array_equal(predicted_RK.grad[ratings_RK.isnan()].numpy(), 0)
    assert predicted_RK.grad[0, 0] != 0


def test_regression_without_any_rating_is_zero() -> None:
    assert regression_loss(torch.ones(2, 3), torch.full((2, 3), math.nan), torch.ones(3)).item() == 0
