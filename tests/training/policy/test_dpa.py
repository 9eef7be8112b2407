"""DPA's loop with scripted policies: who is sampled on what, what is learned, and that a killed run ends the same."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from app.client import Usage
from tests.training.policy.toy_dpa import (
    ORIGINALS,
    PARTS,
    SETS,
    Killed,
    World,
    files_of,
    is_told,
    recipe_in,
    rewards_of,
)
from training.errors import InvalidData, InvalidRecipe, StaleArtifact, UnrewardedTraining
from training.logs import read_log
from training.policy.dpa import align
from training.policy.dpa_configs import DpaConfig, SteerLMConfig
from training.policy.dpa_sampling import DirectionDraw
from training.policy.metering import METERED, Metered
from training.policy.originals import half_of_iteration, part_of
from training.policy.prompts import DIRECTION, PromptsConfig, read_prompts, without_direction
from training.policy.row_groups import RowGroups
from training.policy.steerlm_prompts import REWARDS


@pytest.fixture
def finished(tmp_path: Path) -> tuple[World, Path]:
    world = World()
    align(world.run(recipe_in(tmp_path)))
    return world, tmp_path


def test_each_iteration_samples_the_last_policy_on_the_other_half(finished: tuple[World, Path]) -> None:
    world, _ = finished
    halves = [set(SETS.halves[half_of_iteration(t)]) for t in range(4)]
    assert halves[1] == halves[3] != halves[0] == halves[2]
    for sampled, half in (("steerlm", halves[1]), ("iteration_1", halves[2]), ("iteration_2", halves[3])):
        asked = [prompt for name, prompt in world.asked if name == sampled]
        assert {prompt[1:] for prompt in asked} == half
        told = REWARDS if sampled == "steerlm" else DIRECTION
        assert all(prompt[0].content.startswith(told) for prompt in asked)
    assert "iteration_3" not in {name for name, _ in world.asked}
    assert list(world.learned) == ["steerlm", "iteration_1", "iteration_2", "iteration_3"]


def test_the_reward_model_sees_no_direction_and_each_prompt_once(finished: tuple[World, Path]) -> None:
    world, _ = finished
    assert not any(is_told(prompt) for prompt, _ in world.scored)
    by_iteration = [(prompt, len(own)) for prompt, own in world.scored if len(own) > 1]
    expected = [(prompt, 7) for prompt in PARTS[0]] + [(prompt, 3 * 4) for prompt in PARTS[1] + PARTS[0]]
    assert by_iteration == expected


def test_what_is_learned_is_the_best_under_the_direction_it_is_learned_with(finished: tuple[World, Path]) -> None:
    world, folder = finished
    responses = {prompt: own for prompt, own in world.scored[len(ORIGINALS) // 2 :] if len(own) == 12}
    kept = [row for row in world.learned["iteration_2"] if is_told(row.prompt)]
    assert len(kept) == 3 * len(PARTS[1])
    for row in kept:
        own = responses[without_direction(row.prompt)]
        assert row.response in own
        group = own.index(row.response) // 4 * 4  # of its own direction's responses
        weights = [int(term.rpartition("*")[2]) for term in row.prompt[0].content[len(DIRECTION) :].split(" + ")]
        scores = [np.dot(weights, rewards_of(text)) for text in own[group : group + 4]]
        assert np.dot(weights, rewards_of(row.response)) == pytest.approx(max(scores), abs=1.0)  # weights are rounded
    lines = [json.loads(line) for line in (folder / "dpa/iteration_2/kept.jsonl").read_text().splitlines()[1:]]
    assert {best["response"] for line in lines for row in line["rows"] for best in row["kept"]} == {
        row.response for row in kept
    }


def test_memory_replay_is_its_share_of_original_responses_of_the_same_half(finished: tuple[World, Path]) -> None:
    world, _ = finished
    for iteration in (1, 2, 3):
        rows = world.learned[f"iteration_{iteration}"]
        replayed = [row for row in rows if not is_told(row.prompt)]
        assert len(replayed) / len(rows) == pytest.approx(0.15, abs=0.01)
        assert all(row in ORIGINALS and row.prompt in PARTS[half_of_iteration(iteration)] for row in replayed)
        assert rows != sorted(rows, key=lambda row: is_told(row.prompt))  # mixed, not one after the other


def test_nothing_learns_from_what_is_measured(finished: tuple[World, Path]) -> None:
    world, _ = finished
    assert PARTS[2]
    assert not {row.prompt[-1:] for rows in world.learned.values() for row in rows} & set(PARTS[2])


@pytest.mark.parametrize("call", [2, 3, 8, 12, 17])
def test_a_run_killed_while_scoring_ends_as_one_that_was_not(
    call: int, finished: tuple[World, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, expected = finished
    folder = tmp_path_factory.mktemp("killed")
    killed = World(dies_at_call=call)
    with pytest.raises(Killed):
        align(killed.run(recipe_in(folder)))
    resumed = World()
    align(resumed.run(recipe_in(folder)))
    assert without_key(files_of(folder)) == without_key(files_of(expected))
    # One group at most is asked for again, and SteerLM's own rows count as one call each.
    assert len(killed.calls) - 1 + len(resumed.calls) == len(whole.calls)


@pytest.mark.parametrize("name", ["steerlm", "iteration_1", "iteration_2"])
def test_a_run_killed_while_learning_samples_nothing_again(
    name: str, finished: tuple[World, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole, expected = finished
    folder = tmp_path_factory.mktemp("killed")
    killed, resumed = World(dies_learning=name), World()
    with pytest.raises(Killed):
        align(killed.run(recipe_in(folder)))
    align(resumed.run(recipe_in(folder)))
    assert without_key(files_of(folder)) == without_key(files_of(expected))
    assert len(killed.calls) + len(resumed.calls) == len(whole.calls)


def test_a_torn_line_costs_its_group_only(finished: tuple[World, Path]) -> None:
    _, folder = finished
    kept = folder / "dpa/iteration_3/kept.jsonl"
    text = kept.read_text()
    kept.write_text(text[:-9])
    (folder / "dpa/iteration_3/policy/rows.json").unlink()
    (folder / "dpa/iteration_3/policy").rmdir()
    world = World()
    align(world.run(recipe_in(folder)))
    assert kept.read_text() == text
    assert len(world.calls) == 1


def without_key(files: dict[str, object]) -> dict[str, object]:
    """Leave out digests: they name no folder, but Trainer's own are not made here."""
    return {name: text for name, text in files.items() if not name.startswith(".")}


def test_more_iterations_go_on_from_those_there_are(finished: tuple[World, Path]) -> None:
    _, folder = finished
    world = World()
    align(world.run(recipe_in(folder, iterations=4)))
    assert list(world.learned) == ["iteration_4"]
    assert {name for name, _ in world.asked} == {"iteration_3"}


def test_another_recipe_does_not_reuse_what_is_there(finished: tuple[World, Path]) -> None:
    with pytest.raises(StaleArtifact, match="made by another recipe"):
        align(World().run(recipe_in(finished[1], responses_per_direction=5)))


def test_prompts_without_rewards_are_left_out(tmp_path: Path) -> None:
    world = World(fails=frozenset(PARTS[0][:3]))
    align(world.run(recipe_in(tmp_path, iterations=1)))
    learned = {without_direction(row.prompt) for row in world.learned["iteration_1"] if is_told(row.prompt)}
    assert learned == set(PARTS[0][3:])
    log = read_log(tmp_path / "dpa/iteration_1/log.csv")
    assert [row["nothing_scored"] for row in log[:2]] == [9, 0]


def test_each_group_says_what_it_asked_of_the_service_and_the_end_sums_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    monkeypatch.setattr("training.policy.dpa.Metered", partial(Metered, clock=lambda: len(world.calls)))
    run = dataclasses.replace(world.run(recipe_in(tmp_path)), usage=lambda: Usage(0, 40 * len(world.calls), 10))
    align(run)
    groups = [row for t in (1, 2, 3) for row in read_log(tmp_path / f"dpa/iteration_{t}/log.csv")]
    assert {tuple(row[name] for name in METERED) for row in groups} == {(0, 40, 1, 1)}
    assert f"dpa sampling, the service: tokens sent {40 * len(groups):,};" in capsys.readouterr().out


def test_groups_without_any_reward_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(UnrewardedTraining, match="2 groups of prompts in a row"):
        align(World(fails=frozenset(PARTS[0])).run(recipe_in(tmp_path)))
    with pytest.raises(UnrewardedTraining, match="1 groups of original responses in a row"):
        align(World(fails=frozenset(PARTS[1])).run(recipe_in(tmp_path / "second", most_failed_steps=1)))


def test_an_iteration_that_keeps_nothing_learns_nothing(tmp_path: Path) -> None:
    world = World(fails=frozenset(PARTS[0]))
    with pytest.raises(InvalidData, match="iteration 1 has kept no response"):
        align(world.run(recipe_in(tmp_path, most_failed_steps=99)))
    assert "iteration_1" not in world.learned


def test_wrong_numbers_of_rewards_stop_the_run(tmp_path: Path) -> None:
    class Short(World):
        def rewards(self, prompts, responses):  # type: ignore[no-untyped-def]
            given = super().rewards(prompts, responses)
            return given if len(responses[0]) == 1 else [each[:-1] for each in given]

    with pytest.raises(ValueError, match="do not fit 7 responses"):
        align(Short().run(recipe_in(tmp_path)))


def test_a_grid_gives_directions_over_three_components() -> None:
    config = DpaConfig(components=("a", "b", "c"), grid_divisions=2, grid_signs=(1.0, 1.0, -1.0), directions=6)
    world = World()
    drawn = DirectionDraw(world.sampler_of("sft", "", 1.0), config, (0, 1))(0, PARTS[0][:2])
    assert all(len({each.weights for each in own.directions}) == 6 for own in drawn)
    assert all(each.weights[2] <= 0 for own in drawn for each in own.directions)


def test_groups_of_rows_are_whole_or_not_there(tmp_path: Path) -> None:
    rows = RowGroups(tmp_path / "rows.jsonl", {"a": 1})
    rows.append([1, 2])
    with (tmp_path / "rows.jsonl").open("a") as lines:
        lines.write('{"rows": [3')
    again = RowGroups(tmp_path / "rows.jsonl", {"a": 1})
    again.append(["line\u2028separator"])
    assert list(RowGroups(tmp_path / "rows.jsonl", {"a": 1})) == [[1, 2], ["line\u2028separator"]]
    with pytest.raises(StaleArtifact):
        RowGroups(tmp_path / "rows.jsonl", {"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        again.append([float("nan")])


def test_originals_are_in_the_half_that_their_prompt_is_sampled_in(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    asked = [prompt for part in PARTS for prompt in part]
    file.write_text(
        "".join(json.dumps({"messages": [{"role": "user", "content": p[0].content}]}) + "\n" for p in asked)
    )
    sets = read_prompts(PromptsConfig((str(file),), evaluation_share=0.1), lambda prompt: [0])
    for part, prompts in enumerate((*sets.halves, sets.evaluation)):
        assert {part_of(prompt, 0.1) for prompt in prompts} == {part}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": ("a",)}, "two names"),
        ({"components": ("a", "b", "c")}, "grid_divisions"),
        ({"grid_divisions": 2, "grid_signs": (1.0,)}, "grid_signs"),
        ({"angles_degrees": (0.0, -45.0)}, "lower first"),
        ({"replay_share": 1.0}, "replay_share"),
        ({"reference_point": (1.0,)}, "reference_point"),
        ({"composites": ("helpfulness: 1",)}, "composites"),
        ({"composites": ("h = a: x",)}, "composites must read"),
        ({"composites": ("h = a: 1", "h = b: 1")}, "different names"),
        ({"second_components": ("a",)}, "second_components"),
        ({"directions": 0}, "dpa.directions"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRecipe, match=message):
        DpaConfig(**settings)


def test_composites_are_named_sums() -> None:
    config = DpaConfig(composites=("helpfulness = a-b: 0.25, c: 0.75", "short = verbosity: -1"))
    assert config.service_composites == {"helpfulness": {"a-b": 0.25, "c": 0.75}, "short": {"verbosity": -1.0}}
    assert SteerLMConfig().responses_per_prompt == 80
