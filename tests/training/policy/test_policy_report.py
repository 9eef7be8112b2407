"""The page of trained policies, made from work folders of made-up runs."""

import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.policy.made_up_runs import LEVELS, controllability, write_log, write_runs
from training.errors import InvalidRecipe
from training.policy.measuring_configs import PolicyReportConfig
from training.policy.radar import Web, radar
from training.policy.report import page
from training.policy.report_learning import MOST_POINTS, RunLogs, read_runs, service_section, thinned
from training.policy.report_mapped_reward import learned


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def body(runs: dict[str, list[Path]]) -> ET.Element:
    """The page is well-formed XML too."""
    text = page("Made <up>", runs)
    assert "http" not in text.replace("http-equiv", ""), "no other host"
    assert "<script" not in text
    return ET.fromstring(text[text.index("<body") : text.index("</html>")])


def said(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def section(body: ET.Element, heading: str) -> ET.Element:
    return next(each for each in body.iter("section") if said(each).startswith(heading))


def test_every_run_has_a_thin_curve_per_seed_and_their_mean(body: ET.Element) -> None:
    learning = section(body, "Learning curves")
    titles = [title.text or "" for line in learning.iter("polyline") for title in line.iter("title")]
    for name, folder in (("PPO", "ppo"), ("Online DPO", "online")):
        assert f"{name}: reward mean, mean of 3 seeds" in titles
        assert all(f"{name}, {folder}-{seed}: reward mean" in titles for seed in range(3))
    kinds = {line.get("class") for line in learning.iter("polyline")}
    assert kinds == {"curve first", "curve first faint"}
    headings = [said(title) for title in learning.iter("h4")]
    assert any(title.startswith("PPO: clip share, in the end 0.1") for title in headings), "folded away, but there"
    assert not any("tokens" in title and "response" not in title for title in headings)


def test_the_mean_is_over_seeds_and_only_where_all_have_a_value() -> None:
    seeds = {
        "a": [{"step": 1.0, "kl": 1.0}, {"step": 2.0, "kl": 2.0}, {"step": 3.0, "kl": 3.0}],
        "b": [{"step": 1.0, "kl": 3.0}, {"step": 2.0, "kl": math.nan}],
    }
    assert RunLogs("run", "ppo", seeds).mean("kl") == [(1.0, 2.0)]
    assert RunLogs("run", "ppo", seeds).values("a", "kl")[-1] == (3.0, 3.0)
    assert RunLogs("run", "ppo", {"a": [{"step": 1.0, "kl": math.nan}]}).columns == ["step"]


def test_long_curves_are_thinned_to_means() -> None:
    points = thinned([(float(step), float(step)) for step in range(10 * MOST_POINTS)])
    assert len(points) == MOST_POINTS
    assert points[0] == (4.5, 4.5)
    assert thinned([]) == []


def test_dpa_has_a_curve_per_iteration_before_each_judge_and_their_hypervolumes(body: ET.Element) -> None:
    directions = section(body, "Directions")
    plots = [plot for plot in directions.iter("div") if plot.get("class") == "plot"]
    assert [said(next(plot.iter("h4"))) for plot in plots] == ["judge: service", "judge: second"]
    for plot in plots:
        lines = [line.get("class") for line in plot.iter("polyline")]
        assert lines == ["curve fourth", *[f"curve shade{t}" for t in range(1, 5)]], (
            "pale to dark; dots for sft and dpo"
        )
        assert len([dot for dot in plot.iter("circle") if dot.get("r") == "5.0"]) == 2
    assert "iteration-4 0.1500 0.1400 to 0.1600 +0.93 +0.90" in " ".join(said(row) + "" for row in _rows(directions))


def _rows(element: ET.Element) -> list[ET.Element]:
    """Rows whose cells are apart."""
    rows = []
    for row in element.iter("tr"):
        copy = ET.Element("tr")
        for cell in row:
            if cell.get("class") != "strip":
                ET.SubElement(copy, cell.tag).text = f"{said(cell)} "
        rows.append(copy)
    return rows


def test_controllability_has_lines_with_intervals_a_row_per_dimension_and_judges_apart(body: ET.Element) -> None:
    controlled = section(body, "Controllability")
    plots = {said(next(plot.iter("h4"))): plot for plot in controlled.iter("div") if plot.get("class") == "plot"}
    for name, levels in LEVELS.items():
        plot = plots[f"PPO, ppo-1: {name}"]
        assert [line.get("class") for line in plot.iter("polyline")] == ["curve first", "curve second"]
        intervals = [line for line in plot.iter("line") if (line.get("class") or "").startswith("interval")]
        assert len(intervals) == 2 * levels
        assert all(float(line.get("y1", 0)) > float(line.get("y2", 0)) for line in intervals)
    rows = [said(row) for row in _rows(controlled)]
    assert rows.count("helpfulness, 5 levels +0.78 +0.58 +0.60 +0.45") == 3, "one per seed"


def test_what_was_learned_is_a_row_per_policy_and_judge_with_intervals_or_the_range_of_seeds() -> None:
    found = {
        "SFT": {"SFT": [replace(controllability("sft", "service", 0.0), over_sft=None)]},
        "RLOO": {f"RLOO, {seed}": [controllability("rloo", "service", 0.2 * seed)] for seed in (1, 2, 3)},
    }
    rows = [said(row) for part in learned(found) for row in _rows(part)]
    assert rows[0] == "policy and judge mapped reward over SFT ρ, helpfulness ρ, honesty ρ, harmless"
    indifferent = " +0.000 (−0.040 to +0.040)" * len(LEVELS)
    assert rows[1] == f"SFT, judge: service +0.000 (−0.100 to +0.100) –{indifferent}"
    seeds = "+0.400 (+0.200 to +0.600, 3 seeds) +0.200 (+0.100 to +0.300, 3 seeds)"
    assert rows[2] == f"RLOO, judge: service {seeds}{' +0.520 (+0.260 to +0.780, 3 seeds)' * len(LEVELS)}"
    assert "RLOO, 1, judge: service +0.200 (+0.100 to +0.300) +0.100 (+0.080 to +0.120)" in rows[5]
    assert len(rows) == 1 + 2 + 1 + 4, "all seeds of a policy together, then apart"


def test_what_was_learned_is_on_the_page_before_each_judge(body: ET.Element) -> None:
    rows = [said(row) for row in _rows(section(body, "Controllability"))]
    assert any(row.startswith("PPO, judge: second +0.450 (+0.450 to +0.450, 3 seeds) +0.225") for row in rows)
    assert any(row.startswith("PPO, ppo-2, judge: second +0.450 (+0.350 to +0.550) +0.225") for row in rows)


def test_pairs_are_maps_of_levels_and_a_radar_shows_the_highest(body: ET.Element) -> None:
    controlled = section(body, "Controllability")
    maps = [table for table in controlled.iter("table") if table.get("class") == "heat"]
    assert len(maps) == 3 * 2 * 3 * 2, "seeds, judges, pairs, heads"
    first = [[said(cell) for cell in row] for row in maps[0].iter("tr")]
    assert first[0] == ["helpfulness", "honesty 1", "honesty 2"]
    assert first[1] == ["1", "1.80", "1.80"]
    assert first[5] == ["5", "4.20", "4.20"]
    shades = [int((cell.get("class") or "level0").removeprefix("level")) for cell in maps[0].iter("td")]
    assert shades == sorted(shades)
    assert shades[0] < shades[-1]
    radars = [web for web in controlled.iter("polygon") if (web.get("class") or "").startswith("web")]
    assert len(radars) == 3 * 2 * 4, "seeds, judges, nothing asked for and three pairs"


def test_the_service_has_tokens_the_share_spared_and_the_speed(body: ET.Element) -> None:
    rows = [said(row) for row in _rows(section(body, "The service"))]
    assert "PPO 3 3,600,000 1,350,000 62.5% 20,000 25.0% 192" in rows
    assert "DPA 1 90,000 10,000 88.9% 6,000 50.0% –" in rows, "iterations together"


def test_a_run_that_has_not_logged_its_seconds_has_no_speed(tmp_path: Path) -> None:
    write_log(tmp_path / "run", 0)
    log = tmp_path / "run" / "logs" / "ppo.csv"
    log.write_text("\n".join(line.rsplit(",", 2)[0] for line in log.read_text().splitlines()) + "\n")
    rows = [said(row) for section in service_section({"PPO": [tmp_path / "run"]}) for row in _rows(section)]
    assert "PPO 1 1,200,000 450,000 62.5% – – 64" in rows


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = page("Nothing", {"A": [tmp_path / "empty"], "B": [tmp_path / "gone"]})
    for sentence in (
        "B: there is no work folder gone.",
        "There are no learning curves",
        "run the stage dpa_evaluation",
        "run the stage controllability",
        "No run has logged the tokens",
    ):
        assert sentence in text


def test_what_cannot_be_read_is_said_and_the_rest_is_there(tmp_path: Path) -> None:
    runs = write_runs(tmp_path)
    (tmp_path / "ppo-0" / "logs" / "ppo.csv").write_text("step,reward_mean\n1,much\n")
    (tmp_path / "ppo-1" / "controllability" / "ppo.json").write_text("{}")
    (tmp_path / "dpa-0" / "dpa" / "iteration_1" / "log.csv").write_text("step,seconds\n1,long\n")
    (tmp_path / "dpa-0" / "dpa" / "evaluation" / "results.json").write_text(json.dumps({"judges": {"service": {}}}))
    text = page("Damaged", runs)
    assert "PPO: ppo.csv of ppo-0 cannot be read as a log." in text
    assert "DPA: log.csv of dpa-0 cannot be read as a log." in text
    assert "PPO, ppo-1: ppo.json does not hold ControllabilityResults" in text
    assert "DPA: results.json cannot be read as DPA's evaluation" in text
    assert "PPO: reward mean, mean of 2 seeds" in text
    assert "PPO, ppo-2: helpfulness" in text


def test_names_cannot_become_tags(tmp_path: Path) -> None:
    write_log(tmp_path / "<b>", 0)
    text = page("<i>", {"<script>": [tmp_path / "<b>"]})
    assert not re.search(r"<(i|b|script)>", text)


def test_numbers_that_no_one_measured_are_dashes(tmp_path: Path) -> None:
    runs = write_runs(tmp_path)
    path = tmp_path / "dpa-0" / "dpa" / "evaluation" / "results.json"
    results = json.loads(path.read_text())
    for seen in results["judges"].values():
        seen["curves"]["iteration-4"]["points"][0]["rewards"] = None
        seen["curves"]["iteration-4"]["angle_second"] = None
    path.write_text(json.dumps(results))
    text = page("Dashes", runs)
    assert "iteration-4" in text
    assert "cannot be read" not in text


def test_runs_are_named_with_the_folders_of_their_seeds() -> None:
    config = PolicyReportConfig(runs=("PPO = runs/a, runs/b", "DPA = runs/c"))
    assert config.folders(Path("own")) == {"PPO": [Path("runs/a"), Path("runs/b")], "DPA": [Path("runs/c")]}
    assert PolicyReportConfig().folders(Path("runs/own")) == {"own": [Path("runs/own")]}
    for wrong in (("runs/a",), ("PPO =",), ("= runs/a",), ("PPO = runs/a", "PPO = runs/b")):
        with pytest.raises(InvalidRecipe, match=r"report\.runs must read"):
            PolicyReportConfig(runs=wrong).folders(Path("own"))
    with pytest.raises(InvalidRecipe, match="must have different names"):
        PolicyReportConfig(runs=("PPO = runs/a/seed, runs/b/seed",)).folders(Path("own"))


def test_a_log_without_steps_is_said(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "odd.csv").write_text("loss\n1.0\n")
    logs, problems = read_runs({"A": [tmp_path]})
    assert logs == []
    assert problems == [f"A: odd.csv of {tmp_path.name} has no row, or no step."]


def test_a_radar_puts_the_first_axis_upwards_and_shares_between_centre_and_rim() -> None:
    drawn = radar("three", ("a", "b", "c"), [Web("one", (0.0, 0.5, 1.0), "first")])
    (web,) = [shape for shape in drawn.iter("polygon") if shape.get("class") == "web first"]
    rims = [shape.get("points", "") for shape in drawn.iter("polygon") if shape.get("class") == "ring-line"]
    points = [tuple(map(float, point.split(","))) for point in web.get("points", "").split()]
    rim = [tuple(map(float, point.split(","))) for point in rims[-1].split()]
    centre = (170.0, 128.0)
    assert points[0] == centre
    assert points[2] == rim[2]
    assert points[1] == pytest.approx(
        tuple((one + other) / 2 for one, other in zip(rim[1], centre, strict=True)), abs=0.1
    )
    assert rim[0][0] == centre[0]
    assert rim[0][1] < centre[1]
    with pytest.raises(ValueError, match="three axes"):
        radar("two", ("a", "b"), [])
