"""Controllability (MOSLIM, Fig. 5 and 6) of made-up policies, before made-up judges."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from app.domain import Message
from training.errors import DamagedArtifact, InvalidRecipe
from training.policy.controllability import (
    Asked,
    Judgement,
    Probabilities,
    Prompt,
    compared,
    measure,
    measured,
    slopes,
    spearmans,
)
from training.policy.measuring_configs import ControllabilityConfig
from training.policy.results import ControllabilityResults, Measured, read_results, write_results

LEVELS = {"helpfulness": 5, "harmless": 2}
PROMPTS: list[Prompt] = [(Message("user", f"question {index}"),) for index in range(40)]


def add_prefix(prompt: Prompt, targets: Mapping[str, int]) -> Prompt:
    tags = "".join(f"<{name} {level}>" for name, level in targets.items())
    return (*prompt[:-1], Message("user", f"{tags} {prompt[-1].content}"))


class Policy:
    """Says as text which levels it means to give: those asked for, or any."""

    def __init__(self, obeys: Sequence[str]) -> None:
        self.obeys = obeys
        self.seeds: list[int] = []

    def sample(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[list[str]]:
        self.seeds.append(seed)
        generator = np.random.default_rng(seed)
        return [[self._response(prompt, generator) for _ in range(n)] for prompt in prompts]

    def _response(self, prompt: Prompt, generator: np.random.Generator) -> str:
        asked = {name: int(level) for name, level in re.findall(r"<(\w+) (\d)>", prompt[-1].content)}
        means = {name: int(generator.integers(1, count + 1)) for name, count in LEVELS.items()}
        means |= {name: level for name, level in asked.items() if name in self.obeys}
        return " ".join(f"{name}={level}" for name, level in means.items())


def judge(prompts: Sequence[Prompt], responses: Sequence[str], targets: Mapping[str, int]) -> list[Judgement | None]:
    """Believe the text, three quarters sure; no judge may see a prefix. The reward counts the targets that are met."""
    assert not any("<" in message.content for prompt in prompts for message in prompt)
    return [Judgement(_sure(response), _targets_met(response, targets)) for response in responses]


def _levels_said(response: str) -> dict[str, int]:
    return {name: int(level) for name, level in re.findall(r"(\w+)=(\d)", response)}


def _targets_met(response: str, targets: Mapping[str, int]) -> float | None:
    said = _levels_said(response)
    return float(sum(said[name] == level for name, level in targets.items())) if targets else None


def _sure(response: str) -> Probabilities:
    said = _levels_said(response)
    return {
        name: [0.75 + 0.25 / count if level == said[name] else 0.25 / count for level in range(1, count + 1)]
        for name, count in LEVELS.items()
    }


def asked(config: ControllabilityConfig | None = None) -> Asked:
    return Asked("made up", PROMPTS, LEVELS, add_prefix, config or ControllabilityConfig(responses_per_prompt=3), 7)


@pytest.fixture(scope="module")
def obedient() -> ControllabilityResults:
    return measure(Policy(tuple(LEVELS)), {"service": judge}, asked())


def test_an_obedient_policy_has_spearman_one_and_gets_every_level(obedient: ControllabilityResults) -> None:
    (seen,) = obedient.judges
    for dimension in seen.dimensions:
        assert dimension.spearman is not None
        assert dimension.slope is not None
        assert dimension.spearman.value == pytest.approx(1.0)
        assert dimension.spearman.low == pytest.approx(1.0)
        assert dimension.slope.value == pytest.approx(0.75), "the judge is three quarters sure"
        for level, cell in enumerate(dimension.cells, start=1):
            assert cell.targets == {dimension.name: level}
            assert cell.classified[dimension.name].value == level
            mean = (LEVELS[dimension.name] + 1) / 2
            assert cell.expected[dimension.name].value == pytest.approx(0.75 * level + 0.25 * mean)


def test_an_indifferent_policy_has_intervals_around_zero() -> None:
    (seen,) = measure(Policy(()), {"service": judge}, asked()).judges
    for dimension in seen.dimensions:
        for found in (dimension.spearman, dimension.slope):
            assert found is not None
            assert found.low < 0 < found.high
            assert found.num_prompts == len(PROMPTS)


def test_a_policy_that_does_the_opposite_has_spearman_minus_one() -> None:
    def contrary(
        prompts: Sequence[Prompt], responses: Sequence[str], targets: Mapping[str, int]
    ) -> list[Judgement | None]:
        answers = [_sure(response) for response in responses]
        return [Judgement({name: list(reversed(p)) for name, p in answer.items()}, 0.0) for answer in answers]

    (seen,) = measure(Policy(tuple(LEVELS)), {"contrary": contrary}, asked()).judges
    assert [each.spearman.value for each in seen.dimensions if each.spearman] == pytest.approx([-1.0, -1.0])


def test_a_dimension_that_is_not_asked_for_says_nothing_of_itself(obedient: ControllabilityResults) -> None:
    """Every cell tells of all heads: helpfulness does not move harmless."""
    (seen,) = obedient.judges
    helpfulness = seen.dimensions[0]
    others = [cell.expected["harmless"] for cell in helpfulness.cells]
    assert all(other.low < 1.5 < other.high or abs(other.value - 1.5) < 0.2 for other in others)
    assert seen.plain.targets == {}
    assert seen.plain.expected.keys() == LEVELS.keys()


def test_pairs_are_a_grid_in_which_both_are_obeyed(obedient: ControllabilityResults) -> None:
    (seen,) = obedient.judges
    (pair,) = seen.pairs
    assert (pair.first, pair.second) == ("helpfulness", "harmless")
    assert [cell.targets for cell in pair.cells] == [
        {"helpfulness": one, "harmless": other} for one in range(1, 6) for other in (1, 2)
    ]
    for cell in pair.cells:
        assert {name: cell.classified[name].value for name in LEVELS} == cell.targets


def test_pairs_may_be_asked_for_their_ends_only() -> None:
    config = ControllabilityConfig(responses_per_prompt=1, pair_levels="ends")
    (pair,) = measure(Policy(()), {"service": judge}, asked(config)).judges[0].pairs
    assert [tuple(cell.targets.values()) for cell in pair.cells] == [(1, 1), (1, 2), (5, 1), (5, 2)]


def test_all_judges_see_the_same_responses_and_every_cell_is_drawn_anew() -> None:
    shown: dict[str, list[str]] = {"service": [], "second": []}

    def showing(
        name: str, prompts: Sequence[Prompt], responses: Sequence[str], targets: Mapping[str, int]
    ) -> list[Judgement | None]:
        shown[name] += responses
        return judge(prompts, responses, targets)

    policy = Policy(())
    judges = {name: partial(showing, name) for name in shown}
    results = measure(policy, judges, asked())
    assert shown["service"] == shown["second"]
    assert [each.judge for each in results.judges] == ["service", "second"]
    assert len(set(policy.seeds)) == len(policy.seeds) == 1 + 5 + 2 + 10
    assert (results.num_prompts, results.responses_per_prompt) == (40, 3)


def test_failures_are_counted_and_in_no_mean() -> None:
    """A prompt whose responses at one level all failed has no slope; it still counts at other levels."""

    def failing(
        prompts: Sequence[Prompt], responses: Sequence[str], targets: Mapping[str, int]
    ) -> list[Judgement | None]:
        return [
            None if prompt == PROMPTS[0] and "helpfulness=2" in response else answer
            for prompt, response, answer in zip(prompts, responses, judge(prompts, responses, targets), strict=True)
        ]

    (seen,) = measure(Policy(tuple(LEVELS)), {"failing": failing}, asked()).judges
    helpfulness = seen.dimensions[0]
    assert [cell.num_failed for cell in helpfulness.cells] == [0, 3, 0, 0, 0]
    counts = [cell.expected["helpfulness"].num_prompts for cell in helpfulness.cells]
    assert counts == [40, 39, 40, 40, 40]
    assert helpfulness.cells[1].classified["helpfulness"].value == 2.0, "a failure is no level"
    assert helpfulness.slope is not None
    assert helpfulness.slope.num_prompts == 39


def test_a_judge_that_fails_throughout_measures_nothing() -> None:
    (seen,) = measure(Policy(()), {"none": lambda prompts, texts, targets: [None] * len(texts)}, asked()).judges
    assert seen.dimensions[0].spearman is None
    assert seen.dimensions[0].slope is None
    assert seen.plain.expected == {}
    assert seen.reward is None
    assert seen.dimensions[0].cells[0].reward is None
    assert set(seen.prompt_rewards) == {None}
    assert seen.plain.num_failed == seen.plain.num_responses == 120


def test_another_number_of_answers_is_an_error() -> None:
    with pytest.raises(ValueError, match="119 answers for 120 responses"):
        measure(Policy(()), {"short": lambda prompts, texts, targets: judge(prompts, texts, targets)[1:]}, asked())

    class Short(Policy):
        def sample(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[list[str]]:
            return super().sample(prompts, n, seed)[1:]

    with pytest.raises(ValueError, match="the sampler gave other than 3 responses"):
        measure(Short(()), {"service": judge}, asked())


def test_an_obedient_policy_gets_the_mapped_reward_of_what_each_cell_asks_for(obedient: ControllabilityResults) -> None:
    """The reward is 1 for each target met: 7 cells ask for one level, 10 for two."""
    (seen,) = obedient.judges
    assert seen.plain.reward is None, "nothing is asked for"
    asking = [cell for part in (*seen.dimensions, *seen.pairs) for cell in part.cells]
    assert [cell.reward.value for cell in asking if cell.reward] == [float(len(cell.targets)) for cell in asking]
    assert seen.reward is not None
    assert seen.reward.low == pytest.approx(27 / 17)
    assert seen.reward.num_prompts == len(PROMPTS)
    assert seen.over_sft is None, "it was compared with nothing"


def test_mapped_rewards_by_hand() -> None:
    """A prompt's reward is the mean over cells of its mean in each; without one of its cells it has none."""
    rewards: dict[tuple[str, int], list[float | None]] = {
        ("one", 1): [1.0, 3.0],
        ("one", 2): [4.0, None],
        ("two", 1): [0.0, 0.0],
        ("two", 2): [-2.0, 0.0],
        ("three", 1): [5.0, 7.0],
        ("three", 2): [None, None],
    }
    (seen,) = measure(Named(), {"service": partial(looked_up, rewards)}, asked_of_one_head()).judges
    assert [cell.reward for cell in seen.dimensions[0].cells] == [
        Measured(8 / 3, 0.0, 6.0, 3),
        Measured(1.5, -1.0, 4.0, 2),
    ]
    assert seen.prompt_rewards == (3.0, -0.5, None)
    assert seen.reward == Measured(1.25, -0.5, 3.0, 2)


def test_the_rise_over_the_sft_policy_is_taken_prompt_by_prompt() -> None:
    """Prompts differ by 10, what was learned by 1: only the paired difference shows that it was learned."""
    sft, policy = (
        measure(Named(), {"service": partial(looked_up, rewards)}, asked_of_one_head())
        for rewards in (
            {(name, level): [first + level] * 2 for name, first in FIRST.items() for level in (1, 2)},
            {(name, level): [first + 2 * level] * 2 for name, first in FIRST.items() for level in (1, 2)}
            | {("three", 1): [None, None]},
        )
    )
    (seen,) = compared(policy, sft).judges
    assert seen.over_sft == Measured(1.5, 1.5, 1.5, 2)
    assert seen.reward == Measured(8.0, 3.0, 13.0, 2)
    assert replace(seen, over_sft=None) == policy.judges[0], "nothing else changes"
    with pytest.raises(ValueError, match="shorter"):
        compared(policy, replace(sft, judges=()))
    with pytest.raises(ValueError, match="shorter"):
        compared(policy, replace(sft, judges=(replace(sft.judges[0], prompt_rewards=(1.0,)),)))


FIRST = {"one": 0.0, "two": 10.0, "three": 20.0}


class Named:
    """Says the prompt and the number of the response."""

    def sample(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[list[str]]:
        return [[f"{prompt[-1].content.split()[-1]} {index}" for index in range(n)] for prompt in prompts]


def looked_up(
    rewards: Mapping[tuple[str, int], Sequence[float | None]],
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    targets: Mapping[str, int],
) -> list[Judgement | None]:
    """Return the rewards of a table: by prompt and level, of each response."""
    if not targets:
        return [Judgement({"honesty": [0.5, 0.5]}, None)] * len(responses)
    keys = [response.split() for response in responses]
    found = [rewards[name, targets["honesty"]][int(index)] for name, index in keys]
    return [None if reward is None else Judgement({"honesty": [0.5, 0.5]}, reward) for reward in found]


def asked_of_one_head() -> Asked:
    prompts = [(Message("user", name),) for name in FIRST]
    return Asked("named", prompts, {"honesty": 2}, add_prefix, ControllabilityConfig(responses_per_prompt=2))


def test_slopes_and_rank_correlations_by_hand() -> None:
    got_PL = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, 2.0], [3.0, 1.0, 2.0]])
    assert slopes(got_PL) == pytest.approx([1.5, 0.0, -0.5])
    assert spearmans(got_PL) == pytest.approx([1.0, 0.0, -0.5])
    assert slopes(np.array([[1.25, 1.75]])) == pytest.approx([0.5])
    assert spearmans(np.zeros((0, 3))).shape == (0,)


def test_the_interval_is_over_prompts_and_repeats() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    found, again = measured(values, 3), measured(values, 3)
    assert found == again
    assert found is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert measured([np.nan, 4.0]) == measured([4.0])
    assert measured([np.nan]) is None


def test_results_come_back_from_json_as_they_were(obedient: ControllabilityResults, tmp_path: Path) -> None:
    path = tmp_path / "new" / "controllability.json"
    write_results(obedient, path)
    assert read_results(ControllabilityResults, path) == obedient
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    path.write_text(path.read_text().replace('"num_failed"', '"failed"', 1))
    with pytest.raises(DamagedArtifact, match=r"controllability\.json does not hold ControllabilityResults"):
        read_results(ControllabilityResults, path)
    path.write_text('{"value": "two", "low": 1, "high": 3, "num_prompts": 1}')
    with pytest.raises(DamagedArtifact, match="not of type float"):
        read_results(Measured, path)


def test_a_config_of_other_values_is_refused() -> None:
    with pytest.raises(InvalidRecipe, match=r"controllability\.pair_levels must be one of all, ends"):
        ControllabilityConfig(pair_levels="some")
    with pytest.raises(InvalidRecipe, match="counts must be positive"):
        ControllabilityConfig(max_prompts=0)
