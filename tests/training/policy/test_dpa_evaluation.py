"""DPA's figures: their signs, their units, and that a failure is in no mean."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.policy.toy_dpa import NAMES, PARTS, World, recipe_in, rewards_of
from training.policy.directions import angle_grid
from training.policy.dpa import align
from training.policy.dpa_configs import DpaConfig
from training.policy.dpa_curves import AskedResponses, judged
from training.policy.dpa_evaluation import evaluate
from training.policy.dpo import make as make_dpo
from training.policy.dpo import pair_of
from training.policy.steerlm import make as make_steerlm

CONFIG = DpaConfig(components=NAMES)


def asked_at(goods: list[float], longs: list[float], prompts: int = 4) -> list[AskedResponses]:
    """One response per prompt at each of so many angles, the largest angle first."""
    directions = angle_grid(NAMES, len(goods))
    return [
        AskedResponses(v.by_name, v.angle, [["x" * int(10 * long)]] * prompts, (np.array([[good, long]]),) * prompts)
        for v, good, long in zip(directions, goods, longs, strict=True)
    ]


def curves_of(**policies: list[AskedResponses]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = judged(policies, NAMES, CONFIG, 0)["curves"]
    return found


def test_a_policy_that_obeys_has_a_positive_correlation() -> None:
    found = curves_of(obeys=asked_at([3, 2, 1], [9, 5, 1]), defies=asked_at([3, 2, 1], [1, 5, 9]))
    for key in ("angle_second", "angle_second_of_responses", "angle_length"):
        assert found["obeys"][key] == pytest.approx(1)
        assert found["defies"][key] == pytest.approx(-1)


def test_a_policy_that_does_not_care_has_no_correlation() -> None:
    assert curves_of(same=asked_at([3, 2, 1], [4, 4, 4]))["same"]["angle_second"] is None
    plain = [AskedResponses({}, None, [["x"]], (np.array([[1.0, 2.0]]),))]
    assert curves_of(plain=plain)["plain"]["angle_second"] is None


def test_shorter_answers_that_are_as_good_have_more_hypervolume() -> None:
    found = curves_of(short=asked_at([1, 2], [1, 2]), long=asked_at([1, 2], [3, 4]))
    assert found["short"]["hypervolume"] > found["long"]["hypervolume"] > 0  # type: ignore[operator]
    assert found["short"]["dominates"] == ["long"]
    assert found["long"]["dominates"] == []


def test_the_recipes_reference_point_is_taken_as_it_is() -> None:
    config = DpaConfig(components=NAMES, reference_point=(0.0, 10.0))
    found = judged({"one": asked_at([2], [6])}, NAMES, config, 0)
    assert found["reference_point"] == [0.0, 10.0]
    assert found["curves"]["one"]["hypervolume"] == pytest.approx(2 * (10 - 6))
    assert found["curves"]["one"]["hypervolume_interval"] == pytest.approx([8, 8])


def test_the_interval_holds_what_other_prompts_would_give() -> None:
    generator = np.random.default_rng(0)
    rewards = [np.array([[good, 1.0]]) for good in generator.normal(2, 1, size=50)]
    asked = [AskedResponses({}, None, [["x"]] * 50, rewards)]
    config = DpaConfig(components=NAMES, reference_point=(0.0, 2.0))
    low, high = judged({"one": asked}, NAMES, config, 0)["curves"]["one"]["hypervolume_interval"]
    expected = 1.96 / 50**0.5
    assert high - low == pytest.approx(2 * expected, rel=0.3)


def test_a_failure_is_in_no_mean_and_is_counted() -> None:
    rewards = (np.array([[1.0, 2.0], [np.nan, np.nan]]), None, np.array([[3.0, 4.0], [3.0, 4.0]]))
    asked = [AskedResponses({}, None, [["a b", "c"], ["d", "e"], ["f", "g"]], rewards)]
    (point,) = curves_of(one=asked)["one"]["points"]  # type: ignore[misc]
    assert point["rewards"] == {"good": 2.0, "long": 3.0}
    assert (point["responses"], point["unscored"]) == (6, 3)
    assert point["mean_words"] == pytest.approx(7 / 6)
    nothing = [AskedResponses({}, None, [["a"]], (None,))]
    (point,) = curves_of(one=asked, none=nothing)["none"]["points"]  # type: ignore[misc]
    assert (point["rewards"], point["unscored"]) == (None, 1)


@pytest.mark.parametrize(("sign", "area"), [(-1.0, 2.0 * 3.0), (1.0, 2.0 * 4.0)])
def test_a_grid_of_two_components_has_an_area_by_its_signs(sign: float, area: float) -> None:
    config = DpaConfig(
        components=NAMES, grid_divisions=2, grid_signs=(1.0, sign), reference_point=(1.0, 5.0 - 5 * sign)
    )
    asked = [AskedResponses({}, None, [["x"]], (np.array([[3.0, 7.0 if sign < 0 else 4.0]]),))]
    assert judged({"one": asked}, NAMES, config, 0)["curves"]["one"]["hypervolume"] == pytest.approx(area)


def test_three_components_have_curves_and_no_area() -> None:
    config = DpaConfig(components=("a", "b", "c"), grid_divisions=1, grid_signs=(1.0, 1.0, 1.0))
    asked = [AskedResponses({"a": 1.0, "b": 0.0, "c": 0.0}, None, [["x"]], (np.array([[1.0, 2.0, 3.0]]),))]
    found = judged({"one": asked}, config.components, config, 0)
    assert found["reference_point"] is None
    assert "hypervolume" not in found["curves"]["one"]
    assert found["curves"]["one"]["points"][0]["rewards"] == {"a": 1.0, "b": 2.0, "c": 3.0}


@pytest.fixture
def measured(tmp_path: Path) -> tuple[World, Path]:
    (tmp_path / "sft").mkdir()
    world = World()
    run = world.run(recipe_in(tmp_path, iterations=2))
    align(run)
    world.scored.clear()
    world.asked.clear()
    evaluate(
        run, make_steerlm(run), lambda prompts, responses: [np.array([[0.0, 1.0]] * len(own)) for own in responses]
    )
    return world, tmp_path


def test_every_policy_is_asked_in_its_own_way_and_judged_twice(measured: tuple[World, Path]) -> None:
    world, folder = measured
    results = json.loads((folder / "dpa/evaluation/results.json").read_text())
    assert set(results["judges"]) == {"service", "second"}
    points = {name: len(found["points"]) for name, found in results["judges"]["service"]["curves"].items()}
    assert points == {"sft": 1, "steerlm": 1, "iteration_1": 10, "iteration_2": 10} or points["steerlm"] in range(1, 6)
    assert {prompt[-1:] for _, prompt in world.asked} == set(PARTS[2])
    assert all(len(own) in (1, points["steerlm"], 10) for _, own in world.scored)
    # The scripted policy writes more under a larger angle; the second judge sees no difference.
    assert results["judges"]["service"]["curves"]["iteration_2"]["angle_second"] > 0.9
    assert results["judges"]["second"]["curves"]["iteration_2"]["angle_second"] is None


def test_means_are_of_the_responses_that_were_written_down(measured: tuple[World, Path]) -> None:
    _, folder = measured
    lines = (folder / "dpa/evaluation/iteration_1.jsonl").read_text().splitlines()[1:]
    point = json.loads((folder / "dpa/evaluation/results.json").read_text())["judges"]["service"]["curves"]
    for line, found in zip(lines, point["iteration_1"]["points"], strict=True):
        texts = [text for own in json.loads(line)["rows"] for text in own]
        mean = np.mean([rewards_of(text) for text in texts], axis=0)
        assert [found["rewards"][name] for name in NAMES] == pytest.approx(mean)


def test_measuring_again_samples_nothing(measured: tuple[World, Path]) -> None:
    _, folder = measured
    world = World()
    run = world.run(recipe_in(folder, iterations=2))
    evaluate(run, make_steerlm(run), None)
    assert world.asked == []


def test_pairs_are_the_best_and_the_worst() -> None:
    direction = angle_grid(NAMES, 2)[0]
    rewards_RC = np.array([[0.5, 0], [np.nan, np.nan], [0.9, 0], [0.1, 0]])
    assert pair_of(["a", "b", "c", "d"], rewards_RC, direction) == ("c", "d")
    assert pair_of(["a", "b"], np.array([[0.5, 0], [0.5, 1]]), direction) is None  # equally good
    assert pair_of(["a", "a"], np.array([[0.5, 0], [0.6, 0]]), direction) is None  # the same words
    assert pair_of(["a", "b"], np.array([[0.5, 0], [np.nan, 0]]), direction) is None
    assert pair_of(["a", "b"], None, direction) is None


def test_dpo_samples_the_sft_policy_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sft").mkdir()
    world, learned = World(), []
    monkeypatch.setattr("training.policy.dpo.train", lambda recipe, pairs, folder: learned.extend(pairs))
    make_dpo(world.run(recipe_in(tmp_path)))
    assert {name for name, _ in world.asked} == {"sft"}
    assert {prompt for _, prompt in world.asked} == {*PARTS[0], *PARTS[1]}
    assert learned
    assert all(rewards_of(chosen)[0] > rewards_of(rejected)[0] for _, (chosen, rejected) in learned)
