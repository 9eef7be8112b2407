"""Online DPO's loop on a toy reward: it learns, heeds the prefix, and ties and failures teach nothing."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from app.errors import BadAnswer
from tests.training.policy.toy_rewards import (
    Killed,
    dies_at_call,
    fails_for,
    heeding,
    letter_share,
    mean_share,
    parameters_of,
    random_reward,
    record_in,
    rollouts_of,
    toy_policy,
    without_clock,
)
from training.errors import InvalidRecipe, UnrewardedTraining
from training.logs import read_log
from training.policy.online_dpo import OnlineDpoLearner, pairs_of
from training.policy.online_dpo_configs import OnlineDpoConfig
from training.policy.policy import Policy, Prompt
from training.policy.reinforcement import reinforce
from training.policy.rollouts import RewardFunction, ScoredBatch

FAST = OnlineDpoConfig(
    prompts_per_step=32, minibatch_size=32, rows_at_once=64, learning_rate=1e-2, checkpoint_every_steps=2
)


def train(folder: Path, steps: int, reward: RewardFunction = letter_share, config: OnlineDpoConfig = FAST) -> Policy:
    policy = toy_policy()
    reinforce(OnlineDpoLearner(policy, config), rollouts_of(policy, reward), steps, record_in(folder))
    return policy


def scored(*rewards: float | None) -> ScoredBatch:
    batch = rollouts_of(toy_policy()).draw(0, 1).batch
    return ScoredBatch(batch, rewards)


@pytest.mark.slow
def test_the_reward_rises_and_the_policy_heeds_the_prefix(tmp_path: Path) -> None:
    policy = train(tmp_path, 40)
    rows = read_log(tmp_path / "log.csv")
    assert rows[0]["reward_mean"] < 0.05
    assert rows[-1]["reward_mean"] > 0.4
    assert heeding(policy) > 0.3
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # the policy is the reference
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["kl"] > 5
    assert rows[-1]["accuracy"] > 0.5


@pytest.mark.slow
def test_what_has_no_reason_is_not_learned(tmp_path: Path) -> None:
    policy = train(tmp_path, 40, random_reward)
    rows = read_log(tmp_path / "log.csv")
    assert abs(rows[-1]["reward_mean"] - rows[0]["reward_mean"]) < 0.1
    assert mean_share(policy) < 0.1


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(folder, 5), folder / "log.csv"


@pytest.mark.parametrize("at_call", [1, 2, 4, 5])
def test_killed_it_ends_as_if_undisturbed(at_call: int, undisturbed: tuple[Policy, Path], tmp_path: Path) -> None:
    whole, log = undisturbed
    with pytest.raises(Killed):
        train(tmp_path / "killed", 5, dies_at_call(at_call))
    resumed = train(tmp_path / "killed", 5)
    for name, values in parameters_of(whole).items():
        assert torch.equal(values, parameters_of(resumed)[name]), name
    assert without_clock(tmp_path / "killed" / "log.csv") == without_clock(log)


def test_pairs_are_of_one_prompt_and_only_of_those_that_teach() -> None:
    pairs = pairs_of(scored(0.1, 0.9, 0.5, 0.5, 0.5, 0.5, None, 3.0, None, None, -1.0, 0.0), 3)
    assert pairs.best_B.tolist() == [1, 11]
    assert pairs.worst_B.tolist() == [0, 10]
    assert len(pairs_of(scored(0.5, 0.5, None, 1.0), 2)) == 0


@pytest.mark.parametrize("reward", [0.5, 0.0])
def test_ties_teach_nothing(reward: float, tmp_path: Path) -> None:
    def constant(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        return [reward] * len(responses)

    policy = train(tmp_path, 8, constant)  # more than most_failed_steps: a tie is no failure
    for name, values in parameters_of(toy_policy()).items():
        assert torch.equal(values, parameters_of(policy)[name]), name
    rows = read_log(tmp_path / "log.csv")
    assert len(rows) == 8
    assert all(row["pairs"] == 0 and math.isnan(row["loss"]) and row["reward_mean"] == reward for row in rows)


def test_a_failure_is_never_the_worst(tmp_path: Path) -> None:
    """All of level 2 failed, and of level 1 there is only praise: pairs are of level 1 alone."""
    train(tmp_path, 1, fails_for(2))
    (row,) = read_log(tmp_path / "log.csv")
    teaching = pairs_of(rollouts_of(toy_policy(), fails_for(2)).draw(0, 4), 4)
    everything = pairs_of(rollouts_of(toy_policy()).draw(0, 4), 4)
    assert row["failed_rewards"] == 64
    assert 0 < row["pairs"] == len(teaching) < len(everything)


def test_a_run_without_any_reward_stops(tmp_path: Path) -> None:
    with pytest.raises(UnrewardedTraining, match=r"online_dpo\.most_failed_steps"):
        train(tmp_path, 9, lambda prompts, responses: [None] * len(responses))


@pytest.mark.parametrize("rewards", [[0.5], [math.nan] * 128])
def test_what_cannot_be_rewards_stops_the_run(rewards: list[float | None], tmp_path: Path) -> None:
    with pytest.raises(BadAnswer):
        train(tmp_path, 1, lambda prompts, responses: rewards)


def test_how_many_rows_are_in_memory_changes_no_result(tmp_path: Path) -> None:
    results = []
    for rows_at_once in (64, 6):
        config = OnlineDpoConfig(prompts_per_step=32, rows_at_once=rows_at_once, learning_rate=1e-4)
        results.append(parameters_of(train(tmp_path / str(rows_at_once), 1, config=config)))
    untrained = parameters_of(toy_policy())
    for name, values in results[0].items():
        assert not torch.equal(values, untrained[name]), name
        assert (values - results[1][name]).abs().mean() < 0.02 * (values - untrained[name]).abs().mean(), name


@pytest.mark.parametrize(("key", "value"), [("responses_per_prompt", 1), ("beta", 0.0), ("minibatch_size", 0)])
def test_the_recipe_is_checked(key: str, value: float) -> None:
    with pytest.raises(InvalidRecipe, match=rf"online_dpo\.{key} must"):
        OnlineDpoConfig(**{key: value})  # type: ignore[arg-type]
