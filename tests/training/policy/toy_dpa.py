"""DPA without policies: scripted responses that obey what is asked, rewards that are counted, fine-tuning as a note."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from app.domain import Message
from tests.training.policy.toy_rewards import without_clock
from training.policy.configs import PolicyRecipe
from training.policy.dpa import LOG
from training.policy.dpa_configs import DpaConfig, FineTuningConfig, SteerLMConfig
from training.policy.dpa_run import POLICY, DpaRun
from training.policy.originals import part_of
from training.policy.prompts import DIRECTION, Prompt, PromptSets
from training.policy.sft_rows import SftRow
from training.policy.steerlm_prompts import REWARDS

NAMES = ("good", "long")


class Killed(BaseException):
    """Stands for the end of the process."""


def prompt_number(number: int) -> Prompt:
    return (Message("user", f"Question {number}?"),)


PROMPTS = [prompt_number(number) for number in range(60)]
PARTS = [[prompt for prompt in PROMPTS if part_of(prompt, 0.1) == part] for part in range(3)]
SETS = PromptSets((tuple(PARTS[0]), tuple(PARTS[1])), tuple(PARTS[2]), 0)
ORIGINALS = [SftRow(prompt, f"original answer {'so ' * (number % 5)}") for number, prompt in enumerate(PROMPTS * 2)]


def recipe_in(folder: Path, **dpa: object) -> PolicyRecipe:
    settings = {
        "components": NAMES,
        "iterations": 3,
        "directions": 3,
        "responses_per_direction": 4,
        "prompts_per_group": 5,
        "most_failed_steps": 2,
        "steerlm": SteerLMConfig(responses_per_prompt=7),
        **dpa,
    }
    return PolicyRecipe(str(folder), dpa=DpaConfig(**settings))


@dataclass
class World:
    """Stands for policies, service and trainer; notes who was asked what."""

    asked: list[tuple[str, Prompt]] = field(default_factory=list)
    scored: list[tuple[Prompt, tuple[str, ...]]] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    learned: dict[str, list[SftRow]] = field(default_factory=dict)
    dies_at_call: int = 0
    dies_learning: str = ""
    fails: frozenset[Prompt] = frozenset()

    def sampler_of(self, name: str, folder: str, temperature: float) -> "Scripted":
        assert name == "sft" or Path(folder).is_dir()
        return Scripted(self, name)

    def rewards(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[np.ndarray | None]:
        self.calls.append(len(prompts))
        if len(self.calls) == self.dies_at_call:
            raise Killed
        self.scored += [(prompt, tuple(own)) for prompt, own in zip(prompts, responses, strict=True)]
        return [
            None if prompt in self.fails else np.array([rewards_of(text) for text in own])
            for prompt, own in zip(prompts, responses, strict=True)
        ]

    def fine_tune(self, rows: Sequence[SftRow], config: FineTuningConfig, folder: Path) -> None:
        if folder.name == self.dies_learning:
            raise Killed
        self.learned[folder.name] = list(rows)
        (folder / POLICY).mkdir()
        (folder / POLICY / "rows.json").write_text(json.dumps([[str(row.prompt), row.response] for row in rows]))

    def run(self, recipe: PolicyRecipe) -> DpaRun:
        return DpaRun(recipe, SETS, ORIGINALS, self.rewards, self.sampler_of, self.fine_tune)


def rewards_of(text: str) -> tuple[float, float]:
    """The share of words that are `good`, and the length."""
    words = text.split()
    return words.count("good") / max(1, len(words)), len(words) / 10


@dataclass
class Scripted:
    """A policy whose responses grow with the weight of `long`, and vary with the seed."""

    world: World
    name: str

    def sample(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[list[str]]:
        self.world.asked += [(self.name, prompt) for prompt in prompts]
        generator = np.random.default_rng(seed)
        return [[self._response(prompt, generator) for _ in range(n)] for prompt in prompts]

    def _response(self, prompt: Prompt, generator: np.random.Generator) -> str:
        weight = int(prompt[0].content.rpartition("*")[2]) if prompt[0].content.startswith(DIRECTION) else 0
        words = generator.integers(1, 4) + (100 + weight) // 10
        return " ".join(generator.choice(["good", "bad", f"w{generator.integers(10**6)}"], size=words))


def is_told(prompt: Prompt) -> bool:
    return prompt[0].role == "system" and prompt[0].content.startswith((DIRECTION, REWARDS))


def files_of(folder: Path) -> dict[str, object]:
    """All that a run has written, but for the clock's columns."""
    return {
        str(path.relative_to(folder)): without_clock(path) if path.name == LOG else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
