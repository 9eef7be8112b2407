"""REINFORCE leave-one-out of a policy against a reward function, through TRL's RLOOTrainer (MOSLIM §2.3).

TRL samples, takes the mean of a prompt's other responses as baseline, and descends; a response whose reward is None has
advantage 0 and is in no baseline. What is here gives it prompts in the order that our own loops take them, one step's
at a time, watches what the reward function gives, and keeps the log and the checkpoints.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from app.client import Usage
from training.errors import DivergedTraining
from training.logs import TrainingLog, read_log
from training.policy.configs import PolicyRecipe
from training.policy.metering import Metered, service_line
from training.policy.moslim_wiring import opened
from training.policy.policy import Policy, Prompt
from training.policy.reinforcement_state import FailedSteps, ReinforcementRecord
from training.policy.rewards import Measured
from training.policy.rloo_configs import RlooConfig
from training.policy.rollouts import RewardFunction, Rollouts, checked
from training.policy.sft_progress import last_checkpoint
from training.policy.trl_rewards import LOG_PREFIX, trl_reward

KEY_FILE: Final = "key.txt"
Logs = dict[str, float | None]
"""What the trainer reports; None is what it makes of NaN."""


class WatchedReward:
    """A reward function whose every answer is checked, whose failures are counted, and which is metered."""

    def __init__(self, reward: RewardFunction, config: RlooConfig, usage: Callable[[], Usage] = Usage) -> None:
        self.num_failed = 0
        """Of the last call, which is the last step."""
        self.metered = Metered(self._measured, usage)
        self._reward = reward
        self._failed_steps = FailedSteps(config)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        return self.measure(prompts, responses).rewards

    def measure(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
        """Return the rewards of a step, and the mean of each head where the function knows them.

        Raises:
            BadAnswer: what it gives cannot be rewards of so many responses.
            UnrewardedTraining: too many steps in a row got no reward at all.
        """
        measured = self.metered(prompts, responses)
        rewards = checked(measured.rewards, len(responses))
        self.num_failed = rewards.count(None)
        self._failed_steps.has_any(len(rewards) - self.num_failed)
        return measured

    def _measured(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
        measure: Callable[..., Measured] | None = getattr(self._reward, "measure", None)
        return measure(prompts, responses) if measure else Measured(self._reward(prompts, responses), {})


class LogsSteps(TrainerCallback):  # type: ignore[misc]
    """A progress bar, and a row of the log per step. `heads`: those whose mean level the reward measures."""

    def __init__(self, log: TrainingLog, reward: WatchedReward, heads: Sequence[str]) -> None:
        self._log, self._reward, self._heads = log, reward, heads
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=RlooConfig.SECTION, unit="step")
        self._reward.metered.begin()

    def on_log(self, args: Any, state: Any, control: Any, logs: Logs | None = None, **_: Any) -> None:  # noqa: ARG002
        if logs is None or "loss" not in logs:
            return  # what it says when all is done
        figures = {name: math.nan if value is None else value for name, value in logs.items()}
        if not (math.isfinite(figures["loss"]) and math.isfinite(figures["grad_norm"])):
            raise DivergedTraining("rloo: loss or gradient is not finite: lower rloo.learning_rate")
        row = self.row(state.global_step, figures)
        self._log.append(row)
        self._bar.update(state.global_step - self._bar.n)
        self._bar.set_postfix(reward=f"{row['reward_mean']:.3f}")

    def row(self, step: int, logs: dict[str, float]) -> dict[str, float]:
        """Return a row of the log; TRL's KL is per token, ours per response."""
        num_tokens = logs["completions/mean_length"]
        return {
            "step": step,
            "reward_mean": logs["reward"],
            "reward_std": logs["reward_std"],
            "failed_rewards": self._reward.num_failed,
            "kl": logs.get("kl", math.nan) * num_tokens,
            "entropy": logs["entropy"],
            **{head: logs.get(f"{LOG_PREFIX}{head}", math.nan) for head in self._heads},
            "response_tokens": num_tokens,
            **self._reward.metered.row(),
        }

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@dataclass(frozen=True, slots=True)
class RlooRun:
    """What a run is given beside its samples."""

    config: RlooConfig
    num_steps: int
    record: ReinforcementRecord
    """Its checkpoint's folder is where TRL's checkpoints go."""
    heads: tuple[str, ...] = ()


def train_rloo(rollouts: Rollouts, run: RlooRun) -> Policy:
    """Train a policy, from the last checkpoint where there is one of the record's key; return it.

    TRL reads the reference policy from where the policy was loaded from, so that must still lie there.

    Raises:
        BadAnswer: the reward function's answer cannot be rewards.
        UnrewardedTraining: too many steps in a row got no reward at all.
        DivergedTraining: the loss is not finite.
    """
    from datasets import Dataset  # noqa: PLC0415 - seconds
    from trl import RLOOTrainer  # noqa: PLC0415

    state = run.record.checkpoint.parent
    resumes_only(state, run.record.key)
    checkpoint = last_checkpoint(state)
    resumed_step = None if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    reward = WatchedReward(rollouts.reward, run.config, rollouts.usage)
    progress = LogsSteps(TrainingLog(run.record.log, resumed_step), reward, run.heads)
    rows = [prompt for step in range(run.num_steps) for prompt in rollouts.prompts_at(step)]
    trainer = RLOOTrainer(
        model=rollouts.policy.model,
        reward_funcs=trl_reward(reward),
        args=trl_arguments(rollouts, run, state),
        train_dataset=Dataset.from_list([{"prompt": conversation(prompt)} for prompt in rows]),
        processing_class=rollouts.policy.tokenizer,
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        progress.close()
    print(service_line(RlooConfig.SECTION, read_log(run.record.log)), flush=True)
    rollouts.policy.model.eval()
    return rollouts.policy


def trl_arguments(rollouts: Rollouts, run: RlooRun, folder: Path) -> Any:
    """Return TRL's RLOOConfig of a run: one update per step, on all of the step's responses."""
    from trl import RLOOConfig  # noqa: PLC0415 - seconds

    config = run.config
    is_cpu = rollouts.policy.device == "cpu"
    return RLOOConfig(
        output_dir=str(folder),
        use_cpu=is_cpu,
        bf16=not is_cpu,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        seed=rollouts.seed,
        max_steps=run.num_steps,
        shuffle_dataset=False,
        per_device_train_batch_size=config.rows_at_once,
        gradient_accumulation_steps=config.prompts_per_step * config.responses_per_prompt // config.rows_at_once,
        num_generations=config.responses_per_prompt,
        max_completion_length=rollouts.sampling.max_new_tokens,
        temperature=rollouts.sampling.temperature,
        beta=config.kl_coefficient,
        epsilon=config.clip_range,
        normalize_advantages=config.normalize_advantages,
        disable_dropout=True,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=config.warmup_steps,
        max_grad_norm=config.largest_gradient_norm,
        logging_steps=1,
        logging_nan_inf_filter=False,  # which would report the mean of the losses before it in place of a NaN
        save_strategy="steps",
        save_steps=config.checkpoint_every_steps,
        save_total_limit=1,
    )


def conversation(prompt: Prompt) -> list[dict[str, str]]:
    """Return a prompt as TRL takes it, prefix and all."""
    return [{"role": message.role, "content": message.content} for message in prompt]


def resumes_only(state: Path, key: str) -> None:
    """Throw away checkpoints that are of another key."""
    file = state / KEY_FILE
    if not file.exists() or file.read_text(encoding="utf-8") != key:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        file.write_text(key, encoding="utf-8")


def run(recipe: PolicyRecipe) -> None:
    """Train the SFT policy against the mapped reward, and save it as `rloo`.

    Raises:
        As `moslim_wiring.opened` and `train_rloo`.
    """
    config = recipe.rloo
    with opened(recipe, config) as parts:
        record = parts.record(config)
        heads = tuple(head.name for head in parts.heads)
        steps = config.num_steps(len(parts.prompts))
        folder = Path(recipe.work_folder) / config.SECTION
        train_rloo(parts.rollouts(config), RlooRun(config, steps, record, heads)).save(folder)
    shutil.rmtree(record.checkpoint.parent, ignore_errors=True)
    rewards = [row["reward_mean"] for row in read_log(record.log)]
    print(f"rloo: reward {rewards[0]:.3f} → {rewards[-1]:.3f} in {len(rewards)} steps; saved to {folder}")
