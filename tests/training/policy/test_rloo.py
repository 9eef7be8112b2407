"""RLOO through TRL on a toy reward: it learns, heeds the prefix, resumes, and a bad answer ends it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.errors import BadAnswer
from tests.training.policy.toy_rewards import (
    PROMPTS,
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
from training.policy.rewards import Measured
from training.policy.rloo import RlooRun, WatchedReward, train_rloo
from training.policy.rloo_configs import RlooConfig
from training.policy.rollouts import RewardFunction

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FAST = RlooConfig(
    prompts_per_step=16,
    responses_per_prompt=8,
    rows_at_once=128,
    learning_rate=1e-2,
    kl_coefficient=0.0,
    normalize_advantages=True,
    checkpoint_every_steps=2,
    most_failed_steps=3,
)
LONG = replace(FAST, checkpoint_every_steps=1000)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the policy to begin with lies: TRL reads its reference from there."""
    folder = tmp_path_factory.mktemp("start") / "policy"
    toy_policy().save(folder)
    return folder


def train(
    start: Path, folder: Path, steps: int, reward: RewardFunction = letter_share, config: RlooConfig = FAST
) -> Policy:
    rollouts = replace(rollouts_of(Policy.load(str(start)), reward), prompts_at=lambda step: PROMPTS * 4)
    record = record_in(folder / "state", "key")
    run = RlooRun(config, steps, replace(record, log=folder / "log.csv"), ("helpfulness",))
    return train_rloo(rollouts, run)


def test_the_reward_rises_and_the_policy_heeds_the_prefix(start: Path, tmp_path: Path) -> None:
    policy = train(start, tmp_path, 70, config=LONG)
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [*range(1, 71)]
    assert rows[0]["reward_mean"] < 0.05
    assert rows[-1]["reward_mean"] > 0.4
    assert heeding(policy) > 0.3
    assert rows[0]["entropy"] > rows[-1]["entropy"]


def test_what_has_no_reason_is_not_learned(start: Path, tmp_path: Path) -> None:
    policy = train(start, tmp_path, 40, random_reward, LONG)
    assert mean_share(policy) < 0.1


@pytest.fixture(scope="module")
def undisturbed(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return train(start, folder, 5), folder / "log.csv"


@pytest.mark.parametrize("at_call", [1, 4, 5])
def test_killed_it_ends_as_if_undisturbed(
    at_call: int, start: Path, undisturbed: tuple[Policy, Path], tmp_path: Path
) -> None:
    whole, log = undisturbed
    with pytest.raises(Killed):
        train(start, tmp_path / "killed", 5, dies_at_call(at_call))
    resumed = train(start, tmp_path / "killed", 5)
    for name, values in parameters_of(whole).items():
        assert torch.equal(values, parameters_of(resumed)[name]), name
    assert without_clock(tmp_path / "killed" / "log.csv") == without_clock(log)


def test_the_price_of_divergence_is_measured_to_the_sft_policy(start: Path, tmp_path: Path) -> None:
    train(start, tmp_path / "dear", 8, config=replace(LONG, kl_coefficient=1.0))
    train(start, tmp_path / "cheap", 8, config=replace(LONG, kl_coefficient=1e-6))
    dear, cheap = (read_log(tmp_path / name / "log.csv") for name in ("dear", "cheap"))
    assert dear[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert cheap[-1]["kl"] > 3 * abs(dear[-1]["kl"])


def test_a_failure_is_counted_and_is_no_number(start: Path, tmp_path: Path) -> None:
    train(start, tmp_path, 2, fails_for(2))
    for row in read_log(tmp_path / "log.csv"):
        assert row["failed_rewards"] == 64
        assert row["reward_mean"] >= 0


def test_heads_are_logged_where_the_reward_measures_them(start: Path, tmp_path: Path) -> None:
    class Measuring:
        def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
            raise AssertionError("measure is asked instead")

        def measure(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
            return Measured(letter_share(prompts, responses), {"helpfulness": 1.75, "failed": 0.0})

    train(start, tmp_path, 1, Measuring())
    (row,) = read_log(tmp_path / "log.csv")
    assert row["helpfulness"] == 1.75


def test_the_policy_is_given_its_prefix_and_the_reward_the_policys_prompt(start: Path, tmp_path: Path) -> None:
    seen: list[Prompt] = []

    def watching(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        seen.extend(prompts)
        return letter_share(prompts, responses)

    train(start, tmp_path, 1, watching)
    assert seen == [prompt for prompt in PROMPTS * 4 for _ in range(8)]


def test_a_run_without_any_reward_stops(start: Path, tmp_path: Path) -> None:
    with pytest.raises(UnrewardedTraining, match=r"rloo\.most_failed_steps"):
        train(start, tmp_path, 9, lambda prompts, responses: [None] * len(responses))
    rows = read_log(tmp_path / "log.csv")
    assert [row["failed_rewards"] for row in rows] == [128, 128]
    assert all(math.isnan(row["reward_mean"]) for row in rows)


def test_a_loss_that_is_not_finite_stops_the_run(start: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedTraining, match=r"lower rloo\.learning_rate"):
        train(start, tmp_path, 4, config=replace(FAST, learning_rate=1e30, largest_gradient_norm=1e30))


@pytest.mark.parametrize("rewards", [[0.5], [math.nan] * 128])
def test_what_cannot_be_rewards_stops_the_run(rewards: list[float | None], start: Path, tmp_path: Path) -> None:
    with pytest.raises(BadAnswer):
        train(start, tmp_path, 1, lambda prompts, responses: rewards)


def test_a_step_with_a_reward_ends_a_row_of_failures() -> None:
    answers: list[list[float | None]] = [[None], [None], [0.5], [None], [None], [None]]
    watched = WatchedReward(lambda prompts, responses: answers.pop(0), FAST)
    for _ in range(5):
        watched(PROMPTS[:1], ["a"])
    with pytest.raises(UnrewardedTraining):
        watched(PROMPTS[:1], ["a"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"responses_per_prompt": 1}, "must be at least 2"),
        ({"rows_at_once": 48}, "must divide the 128 responses"),
        ({"kl_coefficient": -0.1}, "must not be negative"),
        ({"clip_range": 0.0}, "between 0 and 1"),
    ],
)
def test_the_recipe_is_checked(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidRecipe, match=message):
        replace(FAST, **settings)  # type: ignore[arg-type]
