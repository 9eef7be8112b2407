"""Gating on synthetic data with a known, prompt-dependent right answer, and the public script's fault as control."""

import dataclasses

import numpy as np
import pytest
import torch

from app.model.armorm import ArmoHead
from training.artifacts import Features, RegressionFit, RewardTransform
from training.configs import GatingConfig
from training.gating import PairFeatures, fit_gating
from training.heads import head_of
from training.losses import bradley_terry_loss

D, K, PAIRS = 8, 4, 3000
CONFIG = GatingConfig(
    hidden_dim=32, n_hidden=2, learning_rate=5e-3, steps=500, batch_size=256, validate_every_steps=25, patience=20
)


def features() -> Features:
    """Prompts of two kinds; objective 0 decides the pairs of one kind, objective 1 those of the other, each against
    the other: no fixed weights are right for both."""
    generator = np.random.default_rng(0)
    kind_P = generator.integers(0, 2, PAIRS)
    prompts_PD = generator.normal(size=(PAIRS, D)).astype(np.float32)
    prompts_PD[:, 0] = np.where(kind_P, 2.0, -2.0)
    responses_RD = generator.normal(scale=0.1, size=(2 * PAIRS, D)).astype(np.float32)
    deciding_P, other_P = kind_P, 1 - kind_P
    rows_P = np.arange(PAIRS)
    first_is_better_P = responses_RD[2 * rows_P, deciding_P] > responses_RD[2 * rows_P + 1, deciding_P]
    chosen_P, rejected_P = 2 * rows_P + ~first_is_better_P, 2 * rows_P + first_is_better_P
    responses_RD[chosen_P, other_P], responses_RD[rejected_P, other_P] = -0.1, 0.1
    return Features(
        objectives=("a", "b", "c", "verbosity"),
        features_RD=responses_RD,
        prompt_features_PD=prompts_PD,
        prompt_of_response_R=np.repeat(rows_P, 2),
        ratings_RK=np.full((2 * PAIRS, K), np.nan, dtype=np.float32),
        response_tokens_R=np.ones(2 * PAIRS, dtype=np.int64),
        is_validation_R=np.repeat(rows_P % 4 == 0, 2),
        pairs_B2=np.stack([chosen_P, rejected_P], axis=1),
        pair_sources=("synthetic",) * PAIRS,
    )


def untrained_head() -> ArmoHead:
    torch.manual_seed(0)
    nothing_K = np.zeros(K)
    regression = RegressionFit(np.eye(K, D, dtype=np.float32), nothing_K, nothing_K, nothing_K.astype(np.int64))
    return head_of(regression, RewardTransform(np.eye(K, dtype=np.float32), nothing_K, nothing_K), CONFIG)


def uniform(head: ArmoHead) -> ArmoHead:
    """Make every coefficient 1/K: the last layer says nothing."""
    assert head.gating is not None
    last = head.gating.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    return head


def accuracy(head: ArmoHead, pairs: PairFeatures) -> float:
    scores_R = pairs.scores_R(head)
    return (scores_R[0::2] > scores_R[1::2]).float().mean().item()


def test_recovers_the_objective_that_decides() -> None:
    data = features()
    train, held_out = (PairFeatures.of(data, validation=part) for part in (False, True))
    head = untrained_head()
    fit = fit_gating(head, train, held_out, CONFIG, seed=0)
    assert accuracy(head, held_out) > 0.95
    assert fit.validation_accuracy > 0.95
    assert accuracy(uniform(untrained_head()), held_out) < 0.7


def test_the_best_network_is_kept_not_the_last() -> None:
    data = features()
    train, held_out = (PairFeatures.of(data, validation=part) for part in (False, True))
    fit = fit_gating(untrained_head(), train, held_out, dataclasses.replace(CONFIG, steps=100), seed=0)
    assert fit.validation_loss == min(row[2] for row in fit.history)


def test_coefficients_sum_to_one_and_have_a_gradient() -> None:
    pairs = PairFeatures.of(features(), validation=False)
    head = untrained_head()
    assert head.gating is not None
    gating_PK = head.gating(pairs.prompt_features_BD)
    np.testing.assert_allclose(gating_PK.sum(dim=-1).detach().numpy(), 1.0, rtol=1e-5)
    bradley_terry_loss(pairs.scores_R(head), pairs.pairs_B2(), 100.0).backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for name, parameter in head.gating.named_parameters() if name != "logit_scale"]
    assert all(gradient is not None and gradient.abs().max() > 1e-6 for gradient in gradients)
    assert head.regression_layer.weight.grad is None
    assert head.gating.logit_scale.grad is None


def test_the_public_scripts_softmax_axis_learns_nothing() -> None:
    """Negative control: with (B, 2, K) logits, a softmax over axis 1 weighs chosen against rejected, always 0.5."""
    pairs = PairFeatures.of(features(), validation=False)
    head = untrained_head()
    assert head.gating is not None
    prompts_B2D = pairs.prompt_features_BD[:, None].expand(-1, 2, -1)
    logits_B2K = prompts_B2D
    for layer in head.gating.layers[:-1]:
        logits_B2K = torch.relu(layer(logits_B2K))
    gating_B2K = torch.softmax(head.gating.layers[-1](logits_B2K) / 10.0, dim=1)
    np.testing.assert_allclose(gating_B2K.detach().numpy(), 0.5)
    scores_B2 = (gating_B2K * head.regression_layer(pairs.features_B2D)).sum(dim=-1)
    assert (scores_B2[:, 0] > scores_B2[:, 1]).float().mean() < 0.7


@pytest.mark.parametrize("validation", [False, True])
def test_pairs_are_gathered_by_part(validation: bool) -> None:
    data = features()
    pairs = PairFeatures.of(data, validation=validation)
    expected = [row for row in range(PAIRS) if (row % 4 == 0) == validation]
    assert len(pairs) == len(expected)
    np.testing.assert_array_equal(pairs.prompt_features_BD.numpy(), data.prompt_features_PD[expected])
