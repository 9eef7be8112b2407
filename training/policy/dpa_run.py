"""What the parts of DPA share: the recipe, its prompts and originals, and how to sample, score and fine-tune.

The three doings are plain callables, so that a test can put its own in their place. Every policy that is made has a
folder with what it learned from, Trainer's checkpoints while it learns, and the policy when it is done.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from app.client import Usage
from training.errors import StaleArtifact
from training.policy.configs import PolicyRecipe
from training.policy.dpa_configs import DpaConfig, FineTuningConfig
from training.policy.dpa_sampling import ComponentRewards
from training.policy.prompts import Prompt, PromptSets
from training.policy.sampling import Sampler
from training.policy.sft_rows import SftRow

FineTune = Callable[[Sequence[SftRow], FineTuningConfig, Path], None]
"""Fine-tunes from the SFT checkpoint on rows, with Trainer's checkpoints below a folder, and writes `folder/policy`."""
SamplerOf = Callable[[str, str, float], Sampler]
"""Gives the sampler of a policy: its name, its folder or hub id, the temperature."""
Row = TypeVar("Row")
POLICY: Final = "policy"
MADE_BY: Final = "made_by.json"
STEERLM: Final = "steerlm"
DPO: Final = "dpo"
MEASURED_ONLY: Final = ("iterations", "evaluation_directions", "reference_point", "second_components",
                        "second_composites", "dpo")  # fmt: skip


@dataclass(frozen=True, slots=True)
class DpaRun:
    """A run of DPA."""

    recipe: PolicyRecipe
    prompts: PromptSets
    originals: Sequence[SftRow]
    rewards: ComponentRewards
    sampler_of: SamplerOf
    fine_tune: FineTune
    usage: Callable[[], Usage] = Usage
    """What the service has been sent so far, and has computed for it."""

    @property
    def config(self) -> DpaConfig:
        return self.recipe.dpa

    @property
    def key(self) -> dict[str, Any]:
        """What decides which policies come out; how many iterations there are does not."""
        whole = asdict(self.recipe)
        dpa = {name: value for name, value in whole["dpa"].items() if name not in MEASURED_ONLY}
        decided = ("seed", "policy", "prompts", "sampling", "sft")
        return {**{name: whole[name] for name in decided}, "dpa": dpa}

    def folder(self, name: str) -> Path:
        """Return where a policy of that name is made."""
        return Path(self.recipe.work_folder) / "dpa" / name

    def policy_folder(self, name: str) -> str:
        return str(self.folder(name) / POLICY)

    def is_made(self, name: str, extra: object = None) -> bool:
        """Say whether a policy is there; claims its folder for this recipe where it is not.

        Raises:
            StaleArtifact: its folder was made by another recipe.
        """
        digest = hashlib.sha256(json.dumps([self.key, extra], sort_keys=True).encode()).hexdigest()[:16]
        file = self.folder(name) / MADE_BY
        if file.exists() and json.loads(file.read_text(encoding="utf-8")) != digest:
            raise StaleArtifact(f"{file.parent} was made by another recipe: delete it, or take another work_folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(digest), encoding="utf-8")
        return (self.folder(name) / POLICY).is_dir()

    def half(self, number: int) -> list[Prompt]:
        """Return the prompts of a half, as many as the recipe takes."""
        prompts = list(self.prompts.halves[number])
        return prompts[: self.config.max_prompts] if self.config.max_prompts else prompts

    def shuffled(self, rows: Sequence[Row], *name: int) -> list[Row]:
        """Return rows in an order decided by the seed and a name."""
        order = np.random.default_rng((self.recipe.seed, *name)).permutation(len(rows))
        return [rows[index] for index in order]


def iteration_name(iteration: int) -> str:
    """Return what the policy of an iteration t ≥ 1 is called."""
    return f"iteration_{iteration}"
