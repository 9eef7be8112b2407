"""What happens before a policy learns at a step: prompts are chosen, responses sampled, rewards asked for.

Everything is a function of seed and step alone, given the policy. Knows no algorithm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from app.client import Usage
from app.errors import BadAnswer
from training.policy.configs import SamplingConfig
from training.policy.policy import Policy, Prompt
from training.policy.sampling import SampledBatch, TransformersSampler

RewardFunction = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]
"""Rewards of responses, each with its prompt; None where there is none to be had."""


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """The responses of a step and their rewards; the n of a prompt stand together."""

    batch: SampledBatch
    rewards: tuple[float | None, ...]
    """Of each response; None is a failure, and is no number anywhere."""

    @property
    def rewarded(self) -> torch.Tensor:
        """The rows that have a reward, as indices."""
        return torch.tensor([row for row, reward in enumerate(self.rewards) if reward is not None], dtype=torch.long)

    @property
    def known_rewards(self) -> torch.Tensor:
        """The rewards of those rows."""
        return torch.tensor([reward for reward in self.rewards if reward is not None])


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Where the samples of a run come from."""

    policy: Policy
    prompts_at: Callable[[int], Sequence[Prompt]]
    """The prompts of a step, as the policy reads them: with their intensity prefix."""
    reward: RewardFunction
    """Is given those same prompts; what the reward model must not see is its business to strip."""
    sampling: SamplingConfig
    seed: int = 0
    usage: Callable[[], Usage] = Usage
    """What the service has been sent so far, and has computed for it."""

    def draw(self, step: int, responses_per_prompt: int) -> ScoredBatch:
        """Sample responses of the policy as it is now, and ask for their rewards in one call.

        Raises:
            BadAnswer: the reward function gives another number of rewards than responses, or one that is not finite.
            InvalidConversation: the policy's template refuses a prompt.
        """
        config = self.sampling
        sampler = TransformersSampler(
            self.policy, config.max_new_tokens, config.temperature, config.batch_size, shows=False
        )
        prompts = self.prompts_at(step)
        batch = sampler.sample_tokens(prompts, responses_per_prompt, number_of(self.seed, step))
        asked = [prompt for prompt in prompts for _ in range(responses_per_prompt)]
        return ScoredBatch(batch, checked(self.reward(asked, batch.texts), len(asked)))


def checked(rewards: Sequence[float | None], num_responses: int) -> tuple[float | None, ...]:
    """Return rewards as they are, if they can be rewards of so many responses.

    Raises:
        BadAnswer: their number is another, or one is neither None nor a finite number.
    """
    if len(rewards) != num_responses:
        raise BadAnswer(f"the reward function gave {len(rewards)} rewards for {num_responses} responses")
    wrong = sum(reward is not None and not math.isfinite(reward) for reward in rewards)
    if wrong:
        raise BadAnswer(f"the reward function gave {wrong} of {num_responses} rewards that are NaN or infinite")
    return tuple(rewards)


def prompts_of_step(num_prompts: int, prompts_per_step: int, seed: int, step: int) -> list[int]:
    """Return which prompts a step takes: each pass goes through all of them, in an order of its own."""
    places = range(step * prompts_per_step, (step + 1) * prompts_per_step)
    orders = {
        turn: np.random.default_rng((seed, turn)).permutation(num_prompts)
        for turn in {place // num_prompts for place in places}
    }
    return [int(orders[place // num_prompts][place % num_prompts]) for place in places]


def number_of(*name: int) -> int:
    """Return one seed for several numbers: other numbers, an unrelated seed."""
    return int(np.random.SeedSequence(name).generate_state(1, np.uint64)[0])
