"""Draw responses for groups of prompts, score each prompt's together, write down what is kept. A killed run goes on.

Responses are drawn under a system prompt and scored without it: the reward model sees the prompt as it was, once for
all directions. Knows neither how a policy is sampled nor how the service is asked.

C components · R responses of a prompt
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from app.preferences import DoubleArray
from training.errors import UnrewardedTraining
from training.logs import TrainingLog
from training.policy.directions import Direction, direction_grid, sample_directions
from training.policy.dpa_configs import DpaConfig
from training.policy.metering import Metered
from training.policy.prompts import Prompt, with_direction
from training.policy.rejection_sampling import Drawn, Kept, Selection, drawn_for_all, drawn_per_direction, select
from training.policy.row_groups import RowGroups
from training.policy.sampling import Sampler
from training.policy.steerlm_prompts import Combinations, with_rewards

ComponentRewards = Callable[[Sequence[Prompt], Sequence[Sequence[str]]], Sequence[DoubleArray | None]]
"""The rewards (R, C) of each prompt's responses, None where the service gave that prompt an error."""
Draw = Callable[[int, Sequence[Prompt]], list[Drawn]]
"""Draws for a group of prompts; its number decides what is drawn."""


@dataclass(frozen=True, slots=True)
class DirectionDraw:
    """Draws each prompt's directions, then responses under each of them (t ≥ 2)."""

    sampler: Sampler
    config: DpaConfig
    seed: tuple[int, ...]

    def __call__(self, group: int, prompts: Sequence[Prompt]) -> list[Drawn]:
        generator = np.random.default_rng((*self.seed, group))
        directions = [drawn_directions(self.config, generator) for _ in prompts]
        asked = [with_direction(p, v.by_name) for p, own in zip(prompts, directions, strict=True) for v in own]
        count = self.config.responses_per_direction
        responses = iter(self.sampler.sample(asked, count, sampling_seed(*self.seed, group)))
        return [drawn_per_direction(own, [next(responses) for _ in own]) for own in directions]


@dataclass(frozen=True, slots=True)
class RewardDraw:
    """Draws responses under diverse combinations of rewards, among which every direction may choose (t = 1)."""

    sampler: Sampler
    config: DpaConfig
    combinations: Combinations
    seed: tuple[int, ...]

    def __call__(self, group: int, prompts: Sequence[Prompt]) -> list[Drawn]:
        generator = np.random.default_rng((*self.seed, group))
        count = self.config.steerlm.responses_per_prompt
        asked = [with_rewards(p, r) for p in prompts for r in self.combinations.draw(count, generator)]
        responses = [own[0] for own in self.sampler.sample(asked, 1, sampling_seed(*self.seed, group))]
        return [
            drawn_for_all(drawn_directions(self.config, generator), responses[start : start + count])
            for start in range(0, len(responses), count)
        ]


def drawn_directions(config: DpaConfig, generator: np.random.Generator) -> list[Direction]:
    """Draw a prompt's directions: at uniform angles, or from the grid without repeats where it has enough."""
    if not config.grid_divisions:
        return sample_directions(config.components, config.directions, generator, config.angles)
    signs = dict(zip(config.components, config.grid_signs, strict=True))
    grid = direction_grid(signs, config.grid_divisions)
    chosen = generator.choice(len(grid), size=config.directions, replace=len(grid) < config.directions)
    return [grid[index] for index in chosen]


def sampling_seed(*name: int) -> int:
    """Return one number for a sampler out of several; different names almost surely give different numbers."""
    return int(np.random.SeedSequence(name).generate_state(1)[0])


def keep_best(
    prompts: Sequence[Prompt],
    draw: Draw,
    rewards: Metered[..., Sequence[DoubleArray | None]],
    groups: RowGroups,
    log: TrainingLog,
    config: DpaConfig,
) -> list[tuple[Prompt, Kept]]:
    """Draw, score and select for every prompt, a group at a time; groups that are written down are not drawn again.

    `rewards` are those of `ComponentRewards`.

    Raises:
        UnrewardedTraining: `most_failed_steps` groups in a row have no reward at all.
    """
    size = config.prompts_per_group
    done = len(groups)
    starts = range(done * size, len(prompts), size)
    failed_in_a_row = 0
    for start in tqdm(starts, desc="rejection sampling", unit="group", leave=False):
        part = prompts[start : start + size]
        drawn = draw(start // size, part)
        selections = scored_selections(part, drawn, rewards)
        row = {"step": start // size + 1, **summary(selections), **rewards.row()}
        log.append(row)  # before the group: a row too many is dropped on resuming
        groups.append([_row(selection) for selection in selections])
        failed_in_a_row = 0 if any(selection.kept for selection in selections) else failed_in_a_row + 1
        if failed_in_a_row >= config.most_failed_steps:
            raise UnrewardedTraining(
                f"dpa: {failed_in_a_row} groups of prompts in a row got no reward at all, which is what "
                "dpa.most_failed_steps allows: the service refuses every item it is sent"
            )
    rows = [row for group in groups for row in group]
    return [(prompt, _kept(kept)) for prompt, row in zip(prompts, rows, strict=True) for kept in row["kept"]]


def scored_selections(prompts: Sequence[Prompt], drawn: Sequence[Drawn], rewards: ComponentRewards) -> list[Selection]:
    """Score a group in one call, one item per prompt, and let its directions keep what is best.

    Raises:
        ValueError: there is not one array per prompt, or one does not fit its responses.
    """
    given = rewards(prompts, [each.responses for each in drawn])
    if len(given) != len(prompts):
        raise ValueError(f"rewards for {len(given)} prompts where {len(prompts)} were asked for")
    return [select(each, rewards_RC) for each, rewards_RC in zip(drawn, given, strict=True)]


def summary(selections: Sequence[Selection]) -> dict[str, float]:
    """Return a group's figures for the log: NaN where nothing was scored."""
    scores = [kept.score for selection in selections for kept in selection.kept]
    means = [selection.mean_score for selection in selections if selection.mean_score is not None]
    return {
        "mean_score": float(np.mean(means)) if means else float("nan"),
        "kept_score": float(np.mean(scores)) if scores else float("nan"),
        "kept": len(scores),
        "nothing_scored": sum(selection.nothing_scored for selection in selections),
    }


def _row(selection: Selection) -> dict[str, Any]:
    return {"kept": [asdict(kept) for kept in selection.kept], "nothing_scored": selection.nothing_scored}


def _kept(row: dict[str, Any]) -> Kept:
    direction = Direction(tuple(row["direction"]["names"]), tuple(row["direction"]["weights"]))
    return Kept(direction, row["response"], tuple(row["rewards"]), row["score"])
