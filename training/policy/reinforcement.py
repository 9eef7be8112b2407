"""The loop that PPO and Online DPO share: draw, learn, log, leave a checkpoint. Knows no loss.

A step is a function of seed and step alone, given what the steps before it left; so a run that was killed ends as one
that was not.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Protocol

import torch
from tqdm import tqdm

from training.logs import TrainingLog, read_log
from training.policy.metering import Metered, service_line
from training.policy.reinforcement_configs import LoopConfig
from training.policy.reinforcement_state import ReinforcementRecord, ReinforcementState
from training.policy.rollouts import Rollouts, ScoredBatch, number_of


class Learner(Protocol):
    """An algorithm: what it changes, and how it learns from one step's responses."""

    FIGURES: ClassVar[tuple[str, ...]]
    """The names of what `learn` returns."""

    @property
    def config(self) -> LoopConfig: ...

    @property
    def state(self) -> ReinforcementState: ...

    def learn(self, scored: ScoredBatch, seed: tuple[int, ...]) -> Mapping[str, float]:
        """Learn from responses of which one at least has a reward; NaN for a figure that there is nothing to say of."""
        ...


def reinforce(learner: Learner, rollouts: Rollouts, num_steps: int, record: ReinforcementRecord) -> None:
    """Train a policy in place, from the checkpoint of the record where there is one of its key.

    A step that got no reward at all teaches nothing; it has a row of NaN in the log.

    Raises:
        BadAnswer: the reward function's answer cannot be rewards.
        UnrewardedTraining: too many steps in a row got no reward at all.
        DivergedTraining: a loss is not finite.
    """
    state, name = learner.state, learner.config.SECTION
    is_resumed = state.restore(record.checkpoint, record.key)
    if is_resumed:
        print(f"{name}: goes on after step {state.step}", flush=True)
    log = TrainingLog(record.log, resumed_step=state.step if is_resumed else None)
    metered = Metered(rollouts.reward, rollouts.usage)
    rollouts = replace(rollouts, reward=metered)
    with tqdm(total=num_steps, initial=state.step, desc=name, unit="step") as bar:
        while state.step < num_steps:
            row = take_step(learner, rollouts) | metered.row()
            log.append(row)
            bar.update()
            bar.set_postfix(reward=f"{row['reward_mean']:.3f}", kl=f"{row['kl']:.2f}")
            if state.step % learner.config.checkpoint_every_steps == 0:
                state.save(record.checkpoint, record.key)
    print(service_line(name, read_log(record.log)), flush=True)


def take_step(learner: Learner, rollouts: Rollouts) -> dict[str, float]:
    """Draw responses, learn from those that have a reward, and return what the step's row of the log says of that."""
    state = learner.state
    torch.manual_seed(number_of(rollouts.seed, state.step))  # dropout of a policy that has any
    scored = rollouts.draw(state.step, learner.config.responses_per_prompt)
    figures: Mapping[str, float] = dict.fromkeys(learner.FIGURES, math.nan)
    if state.failed_steps.has_any(len(scored.rewarded)):
        figures = learner.learn(scored, (rollouts.seed, state.step))
    state.step += 1
    return {
        "step": state.step,
        **rewards_of(scored),
        **figures,
        "response_tokens": scored.batch.response_mask.sum(dim=-1).float().mean().item(),
    }


def rewards_of(scored: ScoredBatch) -> dict[str, float]:
    """Return mean and standard deviation of a step's rewards, NaN without any, and how many there were none for."""
    known = scored.known_rewards.double()
    num_failed = len(scored.rewards) - len(known)
    if not len(known):
        return {"reward_mean": math.nan, "reward_std": math.nan, "failed_rewards": num_failed}
    deviation = known.std(unbiased=False).item()
    return {"reward_mean": known.mean().item(), "reward_std": deviation, "failed_rewards": num_failed}
