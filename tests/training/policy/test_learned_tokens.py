"""Prompt tuning of what a prefix says: some tokens' embeddings are learned, and nothing else changes."""

from pathlib import Path

import pytest
import torch

from tests.training.policy.toy_rewards import PROMPTS, record_in, rollouts_of, toy_policy
from training.errors import InvalidRecipe
from training.policy.configs import AdaptersConfig, TinyConfig
from training.policy.policy import Policy
from training.policy.ppo import PpoLearner
from training.policy.ppo_configs import PpoConfig
from training.policy.reinforcement import reinforce
from training.policy.tiny import tiny_policy

TAGS = ("<helpfulness 1>", "<helpfulness 2>")
SIZES = TinyConfig(
    vocabulary_size=300, whole_tokens=TAGS, hidden_size=32, layers=1, attention_heads=2, intermediate_size=64
)


def tagged_policy() -> Policy:
    return tiny_policy(["a b c d e f g h", "say it", "tell me"], SIZES, seed=0)


def test_a_whole_token_is_one_and_is_read_back() -> None:
    policy = tagged_policy()
    for tag in TAGS:
        assert len(policy.encode_response(f"{tag}")) == 1 + len(policy.closing_ids)
        assert policy.decode(policy.encode_response(f"{tag} a b")) == f"{tag} a b"


def test_nothing_but_those_embeddings_changes(tmp_path: Path) -> None:
    policy = tagged_policy()
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    policy.learn_only_tokens(TAGS)
    config = PpoConfig(steps=2, prompts_per_step=16, minibatch_size=16, learning_rate=1e-2, learned_tokens=TAGS)
    reinforce(PpoLearner(policy, config), rollouts_of(policy), 2, record_in(tmp_path))
    after = policy.model.state_dict()
    tied = {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - tied)
    changed = (before["lm_head.weight"] != after["lm_head.weight"]).any(dim=-1).nonzero().flatten().tolist()
    assert changed == sorted(policy.encode_response(tag)[0] for tag in TAGS)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (toy_policy(), "<helpfulness 1> is no token of this policy but several"),
        (tagged_policy().with_adapters(AdaptersConfig(rank=2)), "policy.lora.rank"),
    ],
    ids=["pieces", "adapters"],
)
def test_what_cannot_be_learned_so_is_refused(policy: Policy, said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        policy.learn_only_tokens(TAGS)


def test_the_tags_are_in_the_prompts_of_this_test() -> None:
    tags = {policy_id for tag in TAGS for policy_id in tagged_policy().encode_response(tag)[:1]}
    assert all(tags & set(tagged_policy().encode(prompt)) for prompt in PROMPTS)
