"""Stages of MOSLIM's baselines: MORLHF by PPO, and Rewarded Soups of policies that were trained so.

A policy of one objective, for a soup, is MORLHF with one weight. Neither is told of an intensity: prompts have no
prefix. Knows no loss.
"""

import dataclasses
import hashlib
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.client import RewardClient
from training.allowed import require
from training.errors import InvalidRecipe
from training.policy.configs import PolicyRecipe
from training.policy.morlhf import RewardFunction, WeightedReward, weighted_reward
from training.policy.moslim_wiring import MoslimRun
from training.policy.policy import Policy, Prompt, sft_policy
from training.policy.ppo import PpoLearner
from training.policy.ppo_configs import PpoConfig
from training.policy.prompts import read_prompts
from training.policy.reinforcement import reinforce
from training.policy.rewarded_soups import write_soup
from training.policy.rewards import DirectionReward, MappedReward, served_heads
from training.policy.rollouts import Rollouts, prompts_of_step
from training.policy.service import client_of

MORLHF: Final = "morlhf"
SOUPS: Final = "rewarded_soups"


def fixed_reward(recipe: PolicyRecipe, client: RewardClient) -> RewardFunction:
    """Return the reward of the section [morlhf].

    Objectives are asked for at once: the service weighs by the unit vector, so its reward times the vector's length is
    Σ w_i r_i. Heads are asked for one by one.

    Raises:
        InvalidRecipe: there is no weighting, all weights are 0, or a head is not served.
    """
    config, weights = recipe.morlhf, recipe.morlhf.weights
    require(bool(weights), "morlhf.objectives or morlhf.heads must name what is weighed, as `NAME: WEIGHT`")
    if config.objectives:
        chosen = {name: weight for name, weight in weights.items() if weight}
        return WeightedReward(((math.hypot(*chosen.values()), DirectionReward(client, chosen)),))
    highest = {head.name: head.classes for head in served_heads(client.info())}
    if unknown := sorted(weights.keys() - highest.keys()):
        raise InvalidRecipe(f"morlhf.heads names {', '.join(unknown)}; served are {', '.join(highest) or 'none'}")
    return weighted_reward(weights, lambda name: MappedReward(client, lambda prompt: (prompt, {name: highest[name]})))


@dataclass(frozen=True, slots=True)
class PlainPrompts:
    """The prompts of a step as they are: by seed and step alone."""

    prompts: Sequence[Prompt]
    prompts_per_step: int
    seed: int

    def __call__(self, step: int) -> list[Prompt]:
        return [self.prompts[at] for at in prompts_of_step(len(self.prompts), self.prompts_per_step, self.seed, step)]


@contextmanager
def opened(recipe: PolicyRecipe) -> Iterator[MoslimRun]:
    """Give the SFT policy, its prompts and a connection to the service, which needs no intensity heads."""
    if recipe.sampling.backend != "transformers":
        raise InvalidRecipe('sampling.backend must be "transformers" here: the tokens that were sampled are needed')
    chosen = recipe.policy
    policy = Policy.load(sft_policy(recipe), chosen.lora, chosen.device, chosen.dtype)
    prompts = read_prompts(recipe.prompts, policy.encode).training
    with client_of(recipe.service) as client:
        yield MoslimRun(recipe, policy, prompts, (), client)


def ppo_of(recipe: PolicyRecipe) -> PpoConfig:
    """Return the section [ppo] as MORLHF takes it: all parameters are learned, for no prefix says what is wanted."""
    rate = recipe.morlhf.learning_rate or recipe.ppo.learning_rate
    return dataclasses.replace(recipe.ppo, learned_tokens=(), learning_rate=rate)


def run_morlhf(recipe: PolicyRecipe) -> None:
    """Train the SFT policy by PPO against one fixed weighting, and save it as `morlhf`.

    Raises:
        As `opened`, `fixed_reward` and `reinforce`.
    """
    root = Path(recipe.work_folder)
    config = ppo_of(recipe)
    with opened(recipe) as run:
        by_ppo = run.record(config)
        record = dataclasses.replace(
            by_ppo,
            key=hashlib.sha256(f"{by_ppo.key} {recipe.morlhf}".encode()).hexdigest(),
            checkpoint=root / f"{MORLHF}_checkpoint" / by_ppo.checkpoint.name,
            log=root / "logs" / f"{MORLHF}.csv",
        )
        prompts = PlainPrompts(run.prompts, config.prompts_per_step, recipe.seed)
        reward = fixed_reward(recipe, run.client)
        rollouts = Rollouts(run.policy, prompts, reward, recipe.sampling, recipe.seed, usage=run.usage)
        learner = PpoLearner(run.policy, config, recipe.sampling.temperature)
        reinforce(learner, rollouts, config.num_steps(len(run.prompts)), record)
        run.policy.save(root / MORLHF)
    shutil.rmtree(record.checkpoint.parent, ignore_errors=True)
    print(f"{MORLHF}: saved to {root / MORLHF}")


def run_soups(recipe: PolicyRecipe) -> None:
    """Write the soup of the section [rewarded_soups] as `rewarded_soups`.

    Raises:
        As `write_soup`.
    """
    config = recipe.rewarded_soups
    target = Path(recipe.work_folder) / SOUPS
    write_soup([Path(folder) for folder in config.policies], config.weights, target)
    print(f"{SOUPS}: saved to {target}")
