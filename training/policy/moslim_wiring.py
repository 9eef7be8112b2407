"""MOSLIM's policies with real parts: the SFT policy, prompts with intensity prefixes, the service. Knows no loss.

The prefix is put in here for the policy, and taken out again by `MappedReward` before anything is sent (§2.3, prompt
alignment).
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from app.client import RewardClient, Usage
from app.domain import IntensityHead
from app.errors import InvalidConversation
from app.text.intensity_prefix import split_intensity_prefix
from training.errors import InvalidData, InvalidRecipe
from training.logs import read_log
from training.policy.configs import PolicyRecipe
from training.policy.policy import Policy, Prompt, sft_policy
from training.policy.prompts import read_prompts, with_intensities, with_targets
from training.policy.reinforcement import Learner, reinforce
from training.policy.reinforcement_configs import LoopConfig
from training.policy.reinforcement_state import ReinforcementRecord
from training.policy.rewards import MappedReward, served_heads
from training.policy.rollouts import Rollouts, prompts_of_step
from training.policy.service import client_of

UNDECIDING: Final = frozenset({"passes", "steps", "rows_at_once", "checkpoint_every_steps", "most_failed_steps"})
"""Keys of a section under which a run may go on from a checkpoint of other values: what a step does is the same."""
VALUES_PER_PARAMETER: Final = 16


@dataclass(frozen=True, slots=True)
class IntensityPrompts:
    """The prompts of a step, each asking for 1 to 3 random dimensions at random levels: by seed and step alone."""

    prompts: Sequence[Prompt]
    heads: tuple[IntensityHead, ...]
    prompts_per_step: int
    seed: int

    def __call__(self, step: int) -> list[Prompt]:
        generator = np.random.default_rng((self.seed, step, 1))
        chosen = prompts_of_step(len(self.prompts), self.prompts_per_step, self.seed, step)
        return [with_intensities(self.prompts[index], self.heads, generator) for index in chosen]


@dataclass(frozen=True, slots=True)
class MoslimRun:
    """A policy to train, and what it is trained with."""

    recipe: PolicyRecipe
    policy: Policy
    """The SFT policy, with adapters where the recipe has them."""
    prompts: Sequence[Prompt]
    heads: tuple[IntensityHead, ...]
    client: RewardClient

    @property
    def reward(self) -> MappedReward:
        """The mapped reward of the intensities that a prompt asks for; what is sent has no prefix (asserted)."""
        return MappedReward(self.client, lambda prompt: split_intensity_prefix(prompt, self.heads))

    def prompts_at(self, config: LoopConfig) -> IntensityPrompts:
        return IntensityPrompts(self.prompts, self.heads, config.prompts_per_step, self.recipe.seed)

    def usage(self) -> Usage:
        """Return what the service has been sent so far, and has computed for it."""
        return self.client.usage

    def rollouts(self, config: LoopConfig) -> Rollouts:
        recipe = self.recipe
        return Rollouts(
            self.policy, self.prompts_at(config), self.reward, recipe.sampling, recipe.seed, usage=self.usage
        )

    def record(self, config: LoopConfig) -> ReinforcementRecord:
        """Return where the run leaves its trace, under a key that whatever changes a step changes."""
        name, root = config.SECTION, Path(self.recipe.work_folder)
        values = dataclasses.asdict(self.recipe)
        section = {key: value for key, value in dataclasses.asdict(config).items() if key not in UNDECIDING}
        shared = {key: values[key] for key in ("seed", "policy", "prompts", "sampling")}
        heads = [(head.name, head.classes) for head in self.heads]
        digest = hashlib.sha256(json.dumps([shared, section, heads]).encode())
        for key, parameter in self.policy.model.named_parameters():
            first = parameter.detach().flatten()[:VALUES_PER_PARAMETER].float().cpu()
            digest.update(key.encode() + first.numpy().tobytes())
        checkpoint = root / f"{name}_checkpoint" / "state.safetensors"
        return ReinforcementRecord(checkpoint, digest.hexdigest(), root / "logs" / f"{name}.csv")


@contextmanager
def opened(recipe: PolicyRecipe, config: LoopConfig) -> Iterator[MoslimRun]:
    """Give a run as its recipe and the section of its loop say, with a connection to the service while it lasts.

    Raises:
        MissingArtifact: the SFT policy is not there.
        InvalidData: the prompts cannot be read.
        InvalidRecipe: responses are to come from a server, the weights that are served have no intensity heads, or as
            `Policy.learn_only_tokens`.
    """
    if recipe.sampling.backend != "transformers":
        raise InvalidRecipe('sampling.backend must be "transformers" here: the tokens that were sampled are needed')
    chosen = recipe.policy
    torch.manual_seed(recipe.seed)  # adapters begin at random
    policy = Policy.load(sft_policy(recipe), chosen.lora, chosen.device, chosen.dtype)
    if config.learned_tokens:
        policy.learn_only_tokens(config.learned_tokens)
    with client_of(recipe.service) as client:
        heads = served_heads(client.info())
        if not heads:
            raise InvalidRecipe("service.url serves weights without intensity heads: there is no mapped reward")
        prompts = askable(read_prompts(recipe.prompts, policy.encode).training, heads)
        yield MoslimRun(recipe, policy, prompts, heads, client)


def askable(prompts: Sequence[Prompt], heads: tuple[IntensityHead, ...]) -> list[Prompt]:
    """Return the prompts that can be given a prefix: not those that begin with what reads as one.

    Raises:
        InvalidData: none can.
    """
    kept = [prompt for prompt in prompts if _takes_prefix(prompt, heads)]
    print(
        f"{len(kept)} prompts to train on, {len(prompts) - len(kept)} left out as they read like a prefix", flush=True
    )
    if not kept:
        raise InvalidData("prompts.files: no prompt can be given an intensity prefix")
    return kept


def _takes_prefix(prompt: Prompt, heads: tuple[IntensityHead, ...]) -> bool:
    try:
        with_targets(prompt, {heads[0].name: 1}, heads)
    except InvalidConversation:
        return False
    return True


def train(recipe: PolicyRecipe, config: LoopConfig, learner_of: Callable[[Policy], Learner]) -> None:
    """Train the SFT policy with an algorithm of ours, and save it under the section's name.

    Raises:
        As `opened` and `reinforce`.
    """
    with opened(recipe, config) as run:
        record = run.record(config)  # names the SFT policy, so before anything is learned
        reinforce(learner_of(run.policy), run.rollouts(config), config.num_steps(len(run.prompts)), record)
        folder = Path(recipe.work_folder) / config.SECTION
        run.policy.save(folder)
    shutil.rmtree(record.checkpoint.parent, ignore_errors=True)
    rewards = [row["reward_mean"] for row in read_log(record.log)]
    print(f"{config.SECTION}: reward {rewards[0]:.3f} → {rewards[-1]:.3f} in {len(rewards)} steps; saved to {folder}")
