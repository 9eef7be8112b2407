"""Prompt tuning of what a prefix says: some tokens' embeddings are learned, and nothing else changes."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch

from app.client import RewardClient
from app.domain import Message
from tests.training.policy.toy_rewards import PROMPTS, record_in, rollouts_of, toy_policy
from training.errors import InvalidRecipe
from training.policy import moslim_wiring
from training.policy.baselines_configs import MorlhfConfig
from training.policy.baselines_wiring import ppo_of
from training.policy.configs import AdaptersConfig, PolicyRecipe, TinyConfig
from training.policy.online_dpo import OnlineDpoLearner
from training.policy.online_dpo_configs import OnlineDpoConfig
from training.policy.policy import Policy
from training.policy.ppo import PpoLearner
from training.policy.ppo_configs import PpoConfig
from training.policy.prompts import PromptSets
from training.policy.reinforcement import reinforce
from training.policy.rloo import RlooRun, train_rloo
from training.policy.rloo_configs import RlooConfig
from training.policy.tiny import tiny_policy

TAGS = ("<helpfulness 1>", "<helpfulness 2>")
SIZES = TinyConfig(
    vocabulary_size=300, whole_tokens=TAGS, hidden_size=32, layers=1, attention_heads=2, intermediate_size=64
)
PPO = PpoConfig(prompts_per_step=16, minibatch_size=16, learning_rate=1e-2, learned_tokens=TAGS)
ONLINE_DPO = OnlineDpoConfig(learning_rate=1e-2, learned_tokens=TAGS)
RLOO = RlooConfig(prompts_per_step=16, rows_at_once=64, learning_rate=1e-2, learned_tokens=TAGS)


def tagged_policy() -> Policy:
    return tiny_policy(["a b c d e f g h", "say it", "tell me"], SIZES, seed=0)


def untied(policy: Policy) -> Policy:
    """Give a policy an output layer of its own, which begins as the embeddings."""
    policy.model.config.tie_word_embeddings = False
    policy.model.lm_head.weight = copy.deepcopy(policy.model.lm_head.weight)
    return policy


def by_ppo(policy: Policy, folder: Path) -> None:
    reinforce(PpoLearner(policy, PPO), rollouts_of(policy), 2, record_in(folder))


def by_online_dpo(policy: Policy, folder: Path) -> None:
    reinforce(OnlineDpoLearner(policy, ONLINE_DPO), rollouts_of(policy), 2, record_in(folder))


def by_rloo(policy: Policy, folder: Path) -> None:
    rollouts = replace(rollouts_of(policy), prompts_at=lambda step: PROMPTS * 4)
    record = replace(record_in(folder / "state"), log=folder / "log.csv")
    train_rloo(rollouts, RlooRun(RLOO, 2, record, ()))


def changed_rows(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    return [int(row) for row in (before != after).any(dim=-1).nonzero().flatten()]


def test_a_whole_token_is_one_and_is_read_back() -> None:
    policy = tagged_policy()
    for tag in TAGS:
        assert len(policy.encode_response(f"{tag}")) == 1 + len(policy.closing_ids)
        assert policy.decode(policy.encode_response(f"{tag} a b")) == f"{tag} a b"


@pytest.mark.filterwarnings("ignore")  # of TRL, transformers among themselves
@pytest.mark.parametrize(
    "train",
    [by_ppo, by_online_dpo, pytest.param(by_rloo, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_nothing_but_those_embeddings_changes(
    train: Callable[[Policy, Path], None], is_tied: bool, tmp_path: Path
) -> None:
    tagged = tagged_policy() if is_tied else untied(tagged_policy())
    tagged.save(tmp_path / "start")  # where TRL reads its reference from
    policy = Policy.load(str(tmp_path / "start"))
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    policy.learn_only_tokens(TAGS)
    train(policy, tmp_path)
    after = policy.model.state_dict()
    learned = sorted(policy.encode_response(tag)[0] for tag in TAGS)
    changed = {name: rows for name in before if (rows := changed_rows(before[name], after[name]))}
    tied = {"lm_head.weight": learned} if is_tied else {}
    assert changed == {"model.embed_tokens.weight": learned, **tied}


def test_what_a_recipe_names_is_learned_and_its_checkpoints_are_of_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagged_policy().save(tmp_path / "sft")
    prompts = PromptSets((((Message("user", "Say it."),),), ()), (), 0)
    info = httpx.Response(200, json={"heads": [{"name": "helpfulness", "classes": 2}]})
    transport = httpx.MockTransport(lambda _: info)
    monkeypatch.setattr(moslim_wiring, "read_prompts", lambda *_: prompts)
    monkeypatch.setattr(moslim_wiring, "client_of", lambda _: RewardClient("http://127.0.0.1:1", transport=transport))
    keys = []
    for config in (PPO, replace(PPO, learned_tokens=())):
        with moslim_wiring.opened(PolicyRecipe(str(tmp_path)), config) as run:
            learned = [name for name, entry in run.policy.model.named_parameters() if entry.requires_grad]
            assert (learned == ["model.embed_tokens.weight"]) == bool(config.learned_tokens)
            keys.append(run.record(config).key)
    assert keys[0] != keys[1]


def test_morlhf_learns_everything_at_its_own_rate() -> None:
    recipe = PolicyRecipe("w", ppo=PPO)
    assert ppo_of(recipe) == replace(PPO, learned_tokens=())
    own = replace(recipe, morlhf=MorlhfConfig(heads=("helpfulness: 1",), learning_rate=0.5))
    assert ppo_of(own) == replace(PPO, learned_tokens=(), learning_rate=0.5)


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
