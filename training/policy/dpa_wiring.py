"""DPA with real parts: policies of this process or a server, TRL's SFTTrainer, the service. Knows no algorithm."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from training.errors import InvalidRecipe
from training.policy.configs import PolicyRecipe
from training.policy.dpa_configs import FineTuningConfig, parsed_composites
from training.policy.dpa_run import POLICY, DpaRun
from training.policy.dpa_sampling import ComponentRewards
from training.policy.openai_sampling import OpenAISampler
from training.policy.policy import Policy, sft_policy
from training.policy.prompts import read_prompts
from training.policy.rewards import ObjectiveRewards
from training.policy.sampling import Sampler, TransformersSampler
from training.policy.service import client_of
from training.policy.sft import fine_tune
from training.policy.sft_rows import SftRow, read_sft_rows

NAME: Final = "{policy}"


@contextmanager
def opened(recipe: PolicyRecipe) -> Iterator[DpaRun]:
    """Give a run of DPA as its recipe says, with a connection to the service while it lasts.

    Raises:
        MissingArtifact: the SFT policy is not there.
        InvalidData: the prompts or the original responses cannot be read.
        InvalidRecipe: the samples of a server could not be told from those of another policy.
    """
    if recipe.sampling.backend == "openai" and NAME not in recipe.sampling.model:
        raise InvalidRecipe(f"sampling.model must hold {NAME} for dpa: every iteration samples another policy")
    start = Policy.load(sft_policy(recipe))
    prompts = read_prompts(recipe.prompts, start.encode)
    print(prompts, flush=True)
    with client_of(recipe.service) as client:
        rewards = ObjectiveRewards(client, recipe.dpa.components, recipe.dpa.service_composites)
        originals, fine_tune = read_sft_rows(recipe.sft), FineTuning(recipe)
        yield DpaRun(recipe, prompts, originals, rewards, Samplers(recipe), fine_tune, lambda: client.usage)


@contextmanager
def second_judge(recipe: PolicyRecipe) -> Iterator[ComponentRewards | None]:
    """Give the rewards of the service at `evaluation.second_url`, None where there is none."""
    if not recipe.evaluation.second_url:
        yield None
        return
    names = recipe.dpa.second_components or recipe.dpa.components
    composites = parsed_composites(recipe.dpa.second_composites or recipe.dpa.composites)
    with client_of(replace(recipe.service, url=recipe.evaluation.second_url)) as client:
        yield ObjectiveRewards(client, names, composites)


@dataclass(frozen=True, slots=True)
class Samplers:
    """Loads a policy into this process, or names it to a server: `sampling.model` with {policy} replaced."""

    recipe: PolicyRecipe

    def __call__(self, name: str, folder: str, temperature: float) -> Sampler:
        sampling, chosen = self.recipe.sampling, self.recipe.policy
        if sampling.backend == "openai":
            return OpenAISampler(
                sampling.url,
                sampling.model.replace(NAME, name),
                sampling.max_new_tokens,
                temperature,
                os.environ.get(sampling.api_key_env) if sampling.api_key_env else None,
                sampling.max_in_flight,
            )
        policy = Policy.load(folder, device=chosen.device, dtype=chosen.dtype)
        return TransformersSampler(policy, sampling.max_new_tokens, temperature, sampling.batch_size, shows=False)


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Fine-tunes the SFT checkpoint: never the last iteration's policy (DPA, §3.1)."""

    recipe: PolicyRecipe

    def __call__(self, rows: Sequence[SftRow], config: FineTuningConfig, folder: Path) -> None:
        chosen = self.recipe.policy
        policy = Policy.load(sft_policy(self.recipe), chosen.lora, chosen.device, chosen.dtype)
        settings = replace(
            self.recipe.sft,
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup_steps,
            epochs=config.epochs,
            batch_size=config.batch_size,
            max_tokens=config.max_tokens,
        )
        fine_tune(policy, rows, settings, folder / POLICY, self.recipe.seed)
