"""What a run asked of the service: per step by a made-up clock, over a run from made-up rows."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.client import Usage
from tests.training.policy.toy_rewards import PROMPTS, letter_share, record_in, rollouts_of, toy_policy
from training.logs import read_log
from training.policy.metering import METERED, Metered, service_figures, service_line
from training.policy.online_dpo import OnlineDpoLearner
from training.policy.online_dpo_configs import OnlineDpoConfig
from training.policy.ppo import PpoLearner
from training.policy.ppo_configs import PpoConfig
from training.policy.reinforcement import Learner, reinforce
from training.policy.rloo import LogsSteps, WatchedReward
from training.policy.rloo_configs import RlooConfig

ROW = {"computed_tokens": 300.0, "logical_tokens": 800.0, "seconds": 2.0, "reward_seconds": 0.5}


class World:
    """A clock that only what is done moves on, and a service that counts."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.usage = Usage(7, 7, 7)

    def reward(self, seconds: float) -> str:
        self.seconds += seconds
        self.usage += Usage(60, 40, 30)
        return "reward"


def test_a_step_is_measured_and_the_next_begins_where_it_ended() -> None:
    world = World()
    metered = Metered(world.reward, lambda: world.usage, lambda: world.seconds)
    world.seconds += 1
    assert metered(2) == "reward"
    world.seconds += 4
    metered(8)
    assert metered.row() == dict(zip(METERED, (60, 200, 15, 10), strict=True))
    world.seconds += 3
    assert metered.row() == dict(zip(METERED, (0, 0, 3, 0), strict=True))
    metered(5)
    metered.begin()
    assert metered.row() == dict.fromkeys(METERED, 0)


def test_a_run_is_the_sum_of_its_steps() -> None:
    rows = [ROW, {**ROW, "logical_tokens": 1600.0, "reward_seconds": 1.0, "step": 2.0}]
    assert list(service_figures(rows).values()) == ["2,400", "600", "75.0%", "1,600", "37.5%"]
    assert service_line("ppo", [ROW]) == (
        "ppo, the service: tokens sent 800; computed 300; spared by sharing 62.5%; "
        "tokens/s while asked 1,600; time on rewards 25.0%"
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], ["0", "0", "–", "–", "–"]),
        ([dict.fromkeys(METERED, 0.0)], ["0", "0", "–", "–", "–"]),
        ([{**ROW, "logical_tokens": 0.0}], ["0", "300", "–", "0", "25.0%"]),
        ([ROW, {"computed_tokens": 100.0, "logical_tokens": 200.0}], ["1,000", "400", "60.0%", "–", "–"]),
    ],
)
def test_what_not_every_step_tells_is_no_number(rows: list[dict[str, float]], expected: list[str]) -> None:
    assert list(service_figures(rows).values()) == expected


@pytest.mark.parametrize(
    "learner_of",
    [
        lambda policy: PpoLearner(policy, PpoConfig(checkpoint_every_steps=1)),
        lambda policy: OnlineDpoLearner(policy, OnlineDpoConfig(checkpoint_every_steps=1)),
    ],
)
def test_the_loop_logs_each_step_and_says_the_sum(
    learner_of: Callable[..., Learner],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two steps, and a third after the end: the line is of the whole log."""
    for num_steps in (2, 3):
        policy, asked = toy_policy(), []
        ticks_as_asked = partial(Metered, clock=lambda asked=asked: len(asked))
        monkeypatch.setattr("training.policy.reinforcement.Metered", ticks_as_asked)
        rollouts = rollouts_of(policy, lambda p, r, asked=asked: asked.append(len(r)) or letter_share(p, r))
        rollouts = replace(rollouts, usage=lambda asked=asked: Usage(2 * sum(asked), sum(asked), sum(asked)))
        reinforce(learner_of(policy), rollouts, num_steps, record_in(tmp_path))
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["logical_tokens"] == 3 * row["computed_tokens"] > 0 for row in rows)
    assert {(row["seconds"], row["reward_seconds"]) for row in rows} == {(1, 1)}
    sent = sum(row["logical_tokens"] for row in rows)
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"the service: tokens sent {sent:,.0f}; " in said
    assert "spared by sharing 66.7%" in said


def test_rloo_logs_what_was_asked_since_training_began(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr("training.policy.rloo.Metered", partial(Metered, clock=lambda: world.seconds))

    def reward(prompts: object, responses: list[str]) -> list[float | None]:
        world.reward(1)
        return [0.5] * len(responses)

    watched = WatchedReward(reward, RlooConfig(), lambda: world.usage)
    progress = LogsSteps(None, watched, ())  # type: ignore[arg-type]
    watched(PROMPTS[:1], ["before"])
    progress.on_train_begin(None, SimpleNamespace(max_steps=1, global_step=0), None)
    watched(PROMPTS[:1], ["a"])
    row = progress.row(1, {"reward": 0.5, "reward_std": 0.0, "entropy": 1.0, "completions/mean_length": 1.0})
    progress.close()
    assert [row[name] for name in METERED] == [30, 100, 1, 1]
