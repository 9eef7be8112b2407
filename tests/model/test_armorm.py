"""The readout of methods.md §1 as identities, against plain matrix products in float64."""

import pytest
import torch

from app.model.armorm import ArmoHead, GatingNetwork

P, R, D, K = 3, 7, 16, 5
PREFIX_OF_RESPONSE_R = torch.tensor([0, 0, 1, 1, 1, 2, 2])


@pytest.fixture
def head() -> ArmoHead:
    torch.manual_seed(0)
    head = ArmoHead(D, K, GatingNetwork(D, K, hidden_dim=8, n_hidden=2, temperature=2.0))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    head.gating.logit_scale.data.fill_(1.7)
    head.reward_transform_matrix.copy_(torch.randn(K, K))
    return head


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(R, D, generator=generator), torch.randn(P, D, generator=generator)


def test_score_is_gated_sum_of_debiased_rewards(head, features):
    features_RD, prompts_PD = features
    output = head.readout(features_RD, prompts_PD, PREFIX_OF_RESPONSE_R)
    rewards_RK = features_RD.double() @ head.regression_layer.weight.double().T
    debiased_RK = rewards_RK @ head.reward_transform_matrix.double()
    expected_R = (output.gating_PK.double()[PREFIX_OF_RESPONSE_R] * debiased_RK).sum(dim=-1)
    torch.testing.assert_close(output.rewards_RK.double(), rewards_RK, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.scores_R.double(), expected_R, rtol=1e-5, atol=1e-5)


def test_contributions_sum_to_score(head, features):
    output = head.readout(*features, PREFIX_OF_RESPONSE_R)
    contributions_RK = output.coefficients_PK[PREFIX_OF_RESPONSE_R] * output.rewards_RK
    torch.testing.assert_close(contributions_RK.sum(dim=-1), output.scores_R, rtol=0, atol=0)


def test_gating_sums_to_logit_scale_over_objectives(head, features):
    gating_PK = head.gating(features[1])
    torch.testing.assert_close(gating_PK.sum(dim=-1), torch.full((P,), 1.7))


def test_gating_follows_temperature(head, features):
    logits_PK = torch.log(head.gating(features[1]))
    head.gating.temperature *= 2
    halved_PK = torch.log(head.gating(features[1]))
    centred = [values - values.mean(dim=-1, keepdim=True) for values in (logits_PK, halved_PK)]
    torch.testing.assert_close(centred[0], centred[1] * 2, rtol=1e-4, atol=1e-4)


def test_heads_compute_in_float32_for_half_precision_features(head, features):
    features_RD, prompts_PD = (values.bfloat16() for values in features)
    output = head.readout(features_RD, prompts_PD, PREFIX_OF_RESPONSE_R)
    exact_RK = features_RD.double() @ head.regression_layer.weight.double().T
    torch.testing.assert_close(output.rewards_RK.double(), exact_RK, rtol=1e-5, atol=1e-5)


def test_without_gating_only_a_single_objective_is_a_score(features):
    single, several = ArmoHead(D, 1), ArmoHead(D, K)
    assert several.readout(*features, PREFIX_OF_RESPONSE_R).scores_R is None
    output = single.readout(*features, PREFIX_OF_RESPONSE_R)
    torch.testing.assert_close(output.scores_R, output.rewards_RK[:, 0])
    assert output.gating_PK is None
    assert output.coefficients_PK is None


def test_names_of_the_published_layout(head):
    layers = {f"gating.layers.{index}.{part}" for index in range(3) for part in ("weight", "bias")}
    expected = layers | {"gating.logit_scale", "regression_layer.weight", "reward_transform_matrix"}
    assert set(head.state_dict()) == expected
