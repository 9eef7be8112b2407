"""What the tests of policies' loops share: a tiny policy, prompts with a prefix, and rewards that need no service."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from app.domain import Message
from training.policy.configs import SamplingConfig, TinyConfig
from training.policy.metering import REWARD_SECONDS, SECONDS
from training.policy.policy import Policy, Prompt
from training.policy.reinforcement_state import ReinforcementRecord
from training.policy.rollouts import RewardFunction, Rollouts
from training.policy.tiny import tiny_policy

WANTED = {1: "a", 2: "b"}
"""The letter that a level asks for."""
SMALL = TinyConfig(vocabulary_size=300, hidden_size=32, layers=1, attention_heads=2, intermediate_size=64)
PROMPTS: tuple[Prompt, ...] = tuple(
    (Message("user", f"<helpfulness {level}> {text}"),) for level in WANTED for text in ("Say it.", "Tell me.")
)
SHORT = SamplingConfig(max_new_tokens=6, batch_size=64)


def toy_policy(seed: int = 0) -> Policy:
    return tiny_policy(["a b c d e f g h", "say it", "tell me"], SMALL, seed)


def level_of(prompt: Prompt) -> int:
    return 2 if "helpfulness 2" in prompt[-1].content else 1


def share(prompt: Prompt, text: str) -> float:
    """The share of a response that is the letter its prompt asks for."""
    return text.count(WANTED[level_of(prompt)]) / max(1, len(text))


def letter_share(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
    return [share(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]


def random_reward(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
    """The negative control: a number that depends on nothing one could learn."""
    return [random.Random(f"{text}{index}").random() for index, text in enumerate(responses)]


def every_prompt_often(step: int) -> Sequence[Prompt]:
    return PROMPTS * 8


def rollouts_of(policy: Policy, reward: RewardFunction = letter_share, seed: int = 0) -> Rollouts:
    return Rollouts(policy, every_prompt_often, reward, SHORT, seed)


def record_in(folder: Path, key: str = "key") -> ReinforcementRecord:
    return ReinforcementRecord(folder / "state.safetensors", key, folder / "log.csv")


def mean_share(policy: Policy) -> float:
    """The mean share of the letter wanted, over fresh samples: what the reward is a sample of."""
    prompts, texts = fresh_responses(policy)
    return sum(share(prompt, text) for prompt, text in zip(prompts, texts, strict=True)) / len(texts)


def heeding(policy: Policy) -> float:
    """The mean share of the letter wanted less that of the other one: 0 for a policy that is deaf to its prefix."""
    prompts, texts = fresh_responses(policy)
    other = [(replace(prompt[-1], content=f"<helpfulness {3 - level_of(prompt)}>"),) for prompt in prompts]
    unwanted = sum(share(prompt, text) for prompt, text in zip(other, texts, strict=True)) / len(texts)
    return mean_share(policy) - unwanted


def fresh_responses(policy: Policy) -> tuple[list[Prompt], tuple[str, ...]]:
    batch = rollouts_of(policy, seed=99).draw(0, 4).batch
    return [prompt for prompt in every_prompt_often(0) for _ in range(4)], batch.texts


def parameters_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def without_clock(log: Path) -> list[list[str]]:
    """Return the cells of a log but for the columns of the clock, in which no two runs agree."""
    header, *rows = (line.split(",") for line in log.read_text().splitlines())
    kept = [column for column, name in enumerate(header) if name not in (SECONDS, REWARD_SECONDS)]
    return [[row[column] for column in kept] for row in (header, *rows)]


class Killed(BaseException):
    """Stands for the end of the process."""


def dies_at_call(number: int) -> RewardFunction:
    """Return the toy reward, which ends the process at its call of a number, from 1."""
    calls: list[int] = []

    def reward(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        calls.append(len(responses))
        if len(calls) == number:
            raise Killed
        return letter_share(prompts, responses)

    return reward


def fails_for(level: int) -> RewardFunction:
    """Return the toy reward, which has none for prompts of a level."""

    def reward(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        given = letter_share(prompts, responses)
        return [None if level_of(prompt) == level else each for prompt, each in zip(prompts, given, strict=True)]

    return reward
