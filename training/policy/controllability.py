"""Whether a policy gives the intensities that it is asked for (MOSLIM, Fig. 5 and 6). Knows no service and no model.

Prompts are asked with every level of every dimension, and of every pair of dimensions, as prefix. Judges classify the
responses to the prompts as they are, without prefix; all judges are shown the same responses. What was asked for they
are told beside the prompts, for the mapped reward (Eq. 11).

The unit is the prompt: what is measured of it is averaged over prompts, and the 95% intervals resample prompts.
Slope and Spearman's ρ are within a prompt, so that prompts which get higher levels whatever is asked add no noise.

P prompts · L levels of a dimension · H intensity heads
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata
from tqdm import tqdm

from app.domain import Message
from app.reward_mapping import classified_intensity, expected_intensity
from training.artifacts import Float64Array
from training.metrics import bootstrap_interval
from training.policy.measuring_configs import ControllabilityConfig
from training.policy.results import Cell, Controllability, ControllabilityResults, Dimension, DimensionPair, Measured
from training.policy.sampling import Sampler

Prompt = tuple[Message, ...]
Probabilities = Mapping[str, Sequence[float]]
"""Per head, the probability of each of its levels."""
AddPrefix = Callable[[Prompt, Mapping[str, int]], Prompt]
Targets = dict[str, int]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one response."""

    probabilities: Probabilities
    reward: float | None
    """The mapped reward for the targets; None without any."""


Classify = Callable[[Sequence[Prompt], Sequence[str], Mapping[str, int]], list[Judgement | None]]
"""Of prompts, responses, and the targets of all of them; None where a response could not be classified."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The grid of what is asked, and of whom."""

    policy: str
    prompts: Sequence[Prompt]
    levels: Mapping[str, int]
    """How many levels each dimension has."""
    add_prefix: AddPrefix
    config: ControllabilityConfig
    seed: int = 0

    def all_targets(self) -> list[Targets]:
        """Return the targets of every cell: none, one dimension, two."""
        single = [{name: level} for name, count in self.levels.items() for level in range(1, count + 1)]
        pairs = [targets for pair in self.pairs() for targets in self.of_pair(*pair)]
        return [{}, *single, *pairs]

    def pairs(self) -> list[tuple[str, str]]:
        return list(itertools.combinations(self.levels, 2))

    def of_pair(self, first: str, second: str) -> list[Targets]:
        levels = [self._pair_levels(self.levels[name]) for name in (first, second)]
        return [{first: one, second: other} for one, other in itertools.product(*levels)]

    def _pair_levels(self, count: int) -> list[int]:
        return sorted({1, count}) if self.config.pair_levels == "ends" else list(range(1, count + 1))

    def sample(self, sampler: Sampler) -> list[list[list[str]]]:
        """Return for each of `all_targets` the responses to each prompt; every cell has random numbers of its own."""
        number = self.config.responses_per_prompt
        cells = []
        for index, targets in enumerate(tqdm(self.all_targets(), desc="controllability", unit="cell", leave=False)):
            prompts = [self.add_prefix(prompt, targets) for prompt in self.prompts] if targets else self.prompts
            responses = sampler.sample(prompts, number, self.seed + index)
            if [len(each) for each in responses] != [number] * len(self.prompts):
                raise ValueError(f"the sampler gave other than {number} responses to each prompt")
            cells.append(responses)
        return cells


@dataclass(frozen=True, slots=True)
class Judged:
    """One cell before one judge: the means of each prompt, NaN where none of its responses could be classified."""

    targets: Targets
    heads: tuple[str, ...]
    expected_PH: Float64Array
    classified_PH: Float64Array
    reward_P: Float64Array
    """NaN where nothing is asked for, too."""
    num_responses: int
    num_failed: int

    def cell(self, seed: int) -> Cell:
        """Average over prompts."""
        expected, classified = (self._means(values_PH, seed) for values_PH in (self.expected_PH, self.classified_PH))
        reward = measured(self.reward_P, seed)
        return Cell(self.targets, expected, classified, reward, self.num_responses, self.num_failed)

    def _means(self, values_PH: Float64Array, seed: int) -> dict[str, Measured]:
        means = {head: measured(values_PH[:, index], seed) for index, head in enumerate(self.heads)}
        return {head: mean for head, mean in means.items() if mean is not None}

    def expected_P(self, head: str) -> Float64Array:
        return self.expected_PH[:, self.heads.index(head)]


def measure(sampler: Sampler, judges: Mapping[str, Classify], asked: Asked) -> ControllabilityResults:
    """Sample every cell once and let every judge classify it.

    Raises:
        ValueError: the sampler or a judge gives another number of answers than it was asked for.
    """
    sampled = asked.sample(sampler)
    found = tuple(_as_seen(name, classify, asked, sampled) for name, classify in judges.items())
    return ControllabilityResults(found, len(asked.prompts), asked.config.responses_per_prompt, asked.seed)


def _as_seen(
    name: str, classify: Classify, asked: Asked, sampled: Sequence[Sequence[Sequence[str]]]
) -> Controllability:
    by_targets = {
        tuple(targets.items()): judged(classify, asked, targets, responses)
        for targets, responses in zip(asked.all_targets(), sampled, strict=True)
    }
    dimensions = tuple(
        _dimension(head, [by_targets[((head, level),)] for level in range(1, count + 1)], asked.seed)
        for head, count in asked.levels.items()
    )
    pairs = tuple(
        DimensionPair(*pair, tuple(by_targets[tuple(each.items())].cell(asked.seed) for each in asked.of_pair(*pair)))
        for pair in asked.pairs()
    )
    rewards_P = np.mean([cell.reward_P for cell in by_targets.values() if cell.targets], axis=0)
    prompt_rewards = tuple(float(reward) if np.isfinite(reward) else None for reward in rewards_P)
    reward = measured(rewards_P, asked.seed)
    plain = by_targets[()].cell(asked.seed)
    return Controllability(asked.policy, name, plain, dimensions, pairs, prompt_rewards, reward, over_sft=None)


def compared(results: ControllabilityResults, sft: ControllabilityResults) -> ControllabilityResults:
    """Add how far each judge's mapped reward is above the SFT policy's, on the same prompts.

    Raises:
        ValueError: the two were measured on other numbers of prompts, or before other numbers of judges.
    """
    judges = []
    for seen, before in zip(results.judges, sft.judges, strict=True):
        of_prompts = zip(seen.prompt_rewards, before.prompt_rewards, strict=True)
        rises = [after - first for after, first in of_prompts if after is not None and first is not None]
        judges.append(replace(seen, over_sft=measured(rises, results.seed)))
    return replace(results, judges=tuple(judges))


def judged(classify: Classify, asked: Asked, targets: Targets, responses: Sequence[Sequence[str]]) -> Judged:
    """Classify the responses of one cell to the prompts without their prefix, and average each prompt's.

    Raises:
        ValueError: the judge gives another number of answers than there are responses.
    """
    prompts = [prompt for prompt, texts in zip(asked.prompts, responses, strict=True) for _ in texts]
    texts = [text for of_prompt in responses for text in of_prompt]
    answers = classify(prompts, texts, targets)
    if len(answers) != len(texts):
        raise ValueError(f"the judge gave {len(answers)} answers for {len(texts)} responses")
    heads = tuple(asked.levels)
    expected_PH, classified_PH = (
        np.stack([_prompt_means(answers, len(responses), _level_of(head, intensity)) for head in heads], axis=-1)
        for intensity in (expected_intensity, classified_intensity)
    )
    reward_P = _prompt_means(answers, len(responses), _reward_of)
    num_failed = sum(answer is None for answer in answers)
    return Judged(targets, heads, expected_PH, classified_PH, reward_P, len(texts), num_failed)


def _level_of(head: str, intensity: Callable[[Float64Array], float]) -> Callable[[Judgement], float]:
    return lambda answer: intensity(np.asarray(answer.probabilities[head]))


def _reward_of(answer: Judgement) -> float:
    return np.nan if answer.reward is None else answer.reward


def _prompt_means(
    answers: Sequence[Judgement | None], num_prompts: int, value_of: Callable[[Judgement], float]
) -> Float64Array:
    """Return (P,) the mean over each prompt's answers, NaN where it has none."""
    of_prompts = np.array_split(np.array([np.nan if each is None else value_of(each) for each in answers]), num_prompts)
    return np.array([np.mean(known) if len(known := of[np.isfinite(of)]) else np.nan for of in of_prompts])


def _dimension(name: str, cells: Sequence[Judged], seed: int) -> Dimension:
    found = tuple(cell.cell(seed) for cell in cells)
    if len(cells) < 2:
        return Dimension(name, len(cells), found, slope=None, spearman=None)
    got_PL = np.stack([cell.expected_P(name) for cell in cells], axis=-1)
    whole_PL = got_PL[np.isfinite(got_PL).all(axis=-1)]
    slope, spearman = (measured(statistic(whole_PL), seed) for statistic in (slopes, spearmans))
    return Dimension(name, len(cells), found, slope, spearman)


def slopes(got_PL: Float64Array) -> Float64Array:
    """Return each prompt's least-squares slope of the level it got against the level it asked for, 1 … L: (P,)."""
    asked_L = _centred_levels(got_PL.shape[-1])
    slopes_P: Float64Array = got_PL @ asked_L / (asked_L @ asked_L)
    return slopes_P


def spearmans(got_PL: Float64Array) -> Float64Array:
    """Return each prompt's rank correlation of the level it got and the level it asked for: (P,).

    Equal levels share their mean rank; a prompt that gets the same whatever it asks for has 0.
    """
    if not len(got_PL):
        return np.zeros(0)
    asked_L = _centred_levels(got_PL.shape[-1])
    ranks_PL = rankdata(got_PL, axis=-1) - (got_PL.shape[-1] + 1) / 2
    lengths_P = np.linalg.norm(ranks_PL, axis=-1) * np.linalg.norm(asked_L)
    correlations_P: Float64Array = ranks_PL @ asked_L / np.where(lengths_P > 0, lengths_P, 1.0)
    return correlations_P


def _centred_levels(count: int) -> Float64Array:
    return np.arange(count, dtype=np.float64) - (count - 1) / 2


def measured(values_P: Iterable[float], seed: int = 0) -> Measured | None:
    """Return the mean over prompts with its 95% bootstrap interval, without those that have no value; None of none."""
    finite_P = np.array([value for value in values_P if np.isfinite(value)])
    if not len(finite_P):
        return None
    low, high = bootstrap_interval(finite_P, seed)
    return Measured(float(finite_P.mean()), low, high, len(finite_P))
