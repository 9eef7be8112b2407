"""PPO's loop on a toy reward: it learns, becomes conditional on the prefix, resumes to the bit, and invents nothing."""

import dataclasses
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
from training.errors import DivergedTraining, InvalidRecipe, UnrewardedTraining
from training.logs import read_log
from training.policy.policy import Policy, Prompt
from training.policy.ppo import Experience, PpoLearner
from training.policy.ppo_configs import PpoConfig
from training.policy.reinforcement import reinforce
from training.policy.rollouts import RewardFunction
from training.policy.sampling import SampledBatch

FAST = PpoConfig(
    prompts_per_step=32,
    responses_per_prompt=4,
    minibatch_size=64,
    rows_at_once=64,
    epochs=2,
    learning_rate=1e-2,
    kl_coefficient=0.0,
    entropy_coefficient=0.0,
    checkpoint_every_steps=2,
)


def train(
    folder: Path, steps: int, reward: RewardFunction = letter_share, config: PpoConfig = FAST, key: str = "key"
) -> Policy:
    policy = toy_policy()
    reinforce(PpoLearner(policy, config), rollouts_of(policy, reward), steps, record_in(folder, key))
    return policy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, list[dict[str, float]]]:
    folder = tmp_path_factory.mktemp("ppo")
    return train(folder, 20), read_log(folder / "log.csv")


@pytest.mark.slow
def test_the_reward_rises_and_the_policy_heeds_the_prefix(trained: tuple[Policy, list[dict[str, float]]]) -> None:
    policy, rows = trained
    assert rows[0]["reward_mean"] < 0.05
    assert rows[-1]["reward_mean"] > 0.4
    assert heeding(policy) > 0.3


@pytest.mark.slow
def test_what_has_no_reason_is_not_learned(tmp_path: Path) -> None:
    policy = train(tmp_path, 20, random_reward)
    rows = read_log(tmp_path / "log.csv")
    assert abs(rows[-1]["reward_mean"] - rows[0]["reward_mean"]) < 0.1
    assert mean_share(policy) < 0.1


@pytest.mark.slow
def test_the_log_says_what_happened(trained: tuple[Policy, list[dict[str, float]]]) -> None:
    _, rows = trained
    assert [row["step"] for row in rows] == [*range(1, 21)]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)  # nothing was learned yet
    assert rows[-1]["kl"] > 5
    assert rows[0]["entropy"] > rows[-1]["entropy"] > 0
    assert all(0 <= row["clip_share"] < 1 for row in rows)
    assert all(row["failed_rewards"] == 0 for row in rows)
    assert all(1 <= row["response_tokens"] <= 6 for row in rows)


@pytest.mark.slow
def test_the_price_of_divergence_holds_the_policy(tmp_path: Path) -> None:
    """β = 1 against rewards of at most 1: leaving the SFT policy never pays."""
    dear = dataclasses.replace(FAST, kl_coefficient=1.0)
    train(tmp_path, 20, config=dear)
    last = read_log(tmp_path / "log.csv")[-1]
    assert last["kl"] < 1
    assert last["reward_mean"] < 0.1


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


def test_a_resumed_run_is_as_warm_as_it_was(tmp_path: Path) -> None:
    slow = dataclasses.replace(FAST, warmup_steps=12)
    whole = train(tmp_path / "whole", 4, config=slow)
    with pytest.raises(Killed):
        train(tmp_path / "killed", 4, dies_at_call(4), slow)
    resumed = train(tmp_path / "killed", 4, config=slow)
    warm = train(tmp_path / "warm", 4)
    for name, values in parameters_of(whole).items():
        assert torch.equal(values, parameters_of(resumed)[name]), name
        assert not torch.equal(values, parameters_of(warm)[name]), name


def test_the_value_head_and_adamw_are_in_the_checkpoint(tmp_path: Path) -> None:
    policy = toy_policy()
    learner = PpoLearner(policy, FAST)
    reinforce(learner, rollouts_of(policy), 2, record_in(tmp_path))
    other = PpoLearner(toy_policy(), FAST)
    assert other.state.restore(record_in(tmp_path).checkpoint, "key")
    assert other._head.linear.weight.any()
    assert torch.equal(other._head.linear.weight, learner._head.linear.weight)
    first, second = (entry.state._adamw.state_dict()["state"] for entry in (learner, other))
    assert first.keys() == second.keys()
    for index, moments in first.items():
        for name, values in moments.items():
            assert torch.equal(values, second[index][name]), name


def test_a_checkpoint_of_another_recipe_is_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, 2)
    train(tmp_path, 2, key="another")
    assert "another recipe, so it is not used" in capsys.readouterr().out
    assert [row["step"] for row in read_log(tmp_path / "log.csv")] == [1, 2]


def test_how_many_rows_are_in_memory_changes_no_result(tmp_path: Path) -> None:
    settings = {"prompts_per_step": 32, "responses_per_prompt": 2, "minibatch_size": 24, "learning_rate": 1e-4}
    results = []
    for rows_at_once in (64, 5):
        config = PpoConfig(**settings, rows_at_once=rows_at_once)
        results.append(parameters_of(train(tmp_path / str(rows_at_once), 1, config=config)))
    untrained = parameters_of(toy_policy())
    for name, values in results[0].items():
        # AdamW's first steps are of one size whatever the gradient's, so most agree and none is far off.
        assert not torch.equal(values, untrained[name]), name
        assert (values - results[1][name]).abs().mean() < 0.02 * (values - untrained[name]).abs().mean(), name


def test_a_failed_reward_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reward is learned from with its own response, and responses without one are not learned from."""
    seen: list[tuple[tuple[str, ...], list[float]]] = []
    look_back = PpoLearner.look_back

    def watched(self: PpoLearner, batch: SampledBatch, rewards_B: torch.Tensor) -> Experience:
        seen.append((batch.texts, rewards_B.tolist()))
        return look_back(self, batch, rewards_B)

    monkeypatch.setattr(PpoLearner, "look_back", watched)
    drawn = rollouts_of(toy_policy(), fails_for(2)).draw(0, 4)
    train(tmp_path, 1, fails_for(2))
    (row,) = read_log(tmp_path / "log.csv")
    known = [
        (text, reward) for text, reward in zip(drawn.batch.texts, drawn.rewards, strict=True) if reward is not None
    ]
    ((texts, rewards),) = seen
    assert row["failed_rewards"] == 64 == len(known)
    assert [*texts] == [text for text, _ in known]
    assert rewards == pytest.approx([reward for _, reward in known])
    assert row["reward_mean"] == pytest.approx(sum(rewards) / 64)


def test_a_step_without_any_reward_teaches_nothing(tmp_path: Path) -> None:
    def nothing(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        return [None] * len(responses)

    with pytest.raises(UnrewardedTraining, match=r"5 steps in a row got no reward at all.*ppo\.most_failed_steps"):
        train(tmp_path, 20, nothing)
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["failed_rewards"] == 128 and math.isnan(row["reward_mean"]) for row in rows)
    policy = train(tmp_path / "few", 4, nothing)
    for name, values in parameters_of(toy_policy()).items():
        assert torch.equal(values, parameters_of(policy)[name])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([0.5], "1 rewards for 128 responses"),
        ([0.5] * 129, "129 rewards for 128 responses"),
        ([0.5] * 127 + [math.nan], "1 of 128 rewards that are NaN or infinite"),
        ([math.inf, -math.inf] + [None] * 126, "2 of 128 rewards that are NaN or infinite"),
    ],
)
def test_what_cannot_be_rewards_stops_the_run(rewards: list[float | None], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadAnswer, match=message):
        train(tmp_path, 1, lambda prompts, responses: rewards)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedTraining, match=r"lower ppo\.learning_rate"):
        train(tmp_path, 3, config=PpoConfig(prompts_per_step=32, learning_rate=1e30, largest_gradient_norm=1e30))


def test_a_detached_value_head_leaves_the_policy_alone() -> None:
    """With no advantage left, only the value loss trains: the shared trunk moves, the detached one does not."""
    for trunk, moves in (("shared", True), ("detached", False)):
        policy = toy_policy()
        learner = PpoLearner(policy, PpoConfig(value_trunk=trunk, value_coefficient=1.0, entropy_coefficient=0.0))
        torch.nn.init.ones_(learner._head.linear.weight)
        scored = rollouts_of(policy).draw(0, 1)
        experience = learner.look_back(scored.batch, scored.known_rewards)
        experience.advantages_BT.zero_()
        learner._update(experience, torch.arange(len(scored.rewards)))
        changed = any(
            not torch.equal(parameters_of(toy_policy())[name], value) for name, value in parameters_of(policy).items()
        )
        assert changed == moves


@pytest.mark.parametrize(
    "key", ["epochs", "clip_range", "discount", "value_trunk", "kl_coefficient", "steps", "passes", "rows_at_once"]
)
def test_the_recipe_is_checked(key: str) -> None:
    wrong: dict[str, object] = {"discount": 1.5, "value_trunk": "own", "kl_coefficient": -1.0, "steps": -1}
    with pytest.raises(InvalidRecipe, match=rf"ppo\.{key} "):
        PpoConfig(**{key: wrong.get(key, 0)})  # type: ignore[arg-type]


def test_steps_go_by_passes_unless_they_are_given() -> None:
    assert PpoConfig(prompts_per_step=10, passes=2.5).num_steps(40) == 10
    assert PpoConfig(prompts_per_step=10, steps=7).num_steps(40) == 7
    assert PpoConfig(prompts_per_step=1000).num_steps(40) == 1
