"""Work folders of made-up runs, for the report: three seeds of PPO with controllability, one of DPA with its curves."""

import json
import math
import random
from pathlib import Path
from typing import Any

from training.logs import TrainingLog
from training.policy.results import (
    Cell,
    Controllability,
    ControllabilityResults,
    Dimension,
    DimensionPair,
    Measured,
    write_results,
)

LEVELS = {"helpfulness": 5, "honesty": 2, "harmless": 2}
STEPS = 150


def write_log(folder: Path, seed: int, *, name: str = "ppo", top: float = 0.9) -> None:
    generator = random.Random(seed)
    log = TrainingLog(folder / "logs" / f"{name}.csv")
    for step in range(1, STEPS + 1):
        reward = math.nan if step == 20 else top * (1 - math.exp(-step / 50)) + generator.gauss(0, 0.08)
        log.append(
            {
                "step": step,
                "reward_mean": reward,
                "reward_std": 0.5 + generator.gauss(0, 0.02),
                "failed_rewards": 64 if step == 20 else 0,
                "kl": 6 * step / STEPS + generator.gauss(0, 0.2),
                "entropy": 4 - 2 * step / STEPS,
                "clip_share": 0.1 + generator.gauss(0, 0.01),
                "response_tokens": 40 + 10 * step / STEPS + generator.gauss(0, 2),
                "computed_tokens": 3000,
                "logical_tokens": 8000,
                "seconds": 1.6,
                "reward_seconds": 0.4,
            }
        )


def write_sampling_log(folder: Path, iteration: int, groups: int) -> None:
    """Write what an iteration of DPA logs of a group of prompts, as far as it tells of the service."""
    log = TrainingLog(folder / "dpa" / f"iteration_{iteration}" / "log.csv")
    asked = {"computed_tokens": 1000, "logical_tokens": 9000, "seconds": 3.0, "reward_seconds": 1.5}
    for group in range(1, groups + 1):
        log.append({"step": group, "kept_score": 0.5, **asked})


def around(value: float, spread: float = 0.1) -> Measured:
    return Measured(value, value - spread, value + spread, 50)


def cell(targets: dict[str, int], strength: float) -> Cell:
    middles = {name: (count + 1) / 2 for name, count in LEVELS.items()}
    got = {
        name: around(middle + strength * (targets.get(name, middle) - middle), 0.05 * LEVELS[name])
        for name, middle in middles.items()
    }
    return Cell(targets, got, got, around(strength) if targets else None, num_responses=100, num_failed=0)


def controllability(policy: str, judge: str, strength: float) -> Controllability:
    dimensions = tuple(
        Dimension(
            name,
            count,
            tuple(cell({name: level}, strength) for level in range(1, count + 1)),
            around(strength),
            around(min(0.95, 1.3 * strength), 0.04),
        )
        for name, count in LEVELS.items()
    )
    names = list(LEVELS)
    pairs = tuple(
        DimensionPair(
            first,
            second,
            tuple(
                cell({first: one, second: other}, strength)
                for one in range(1, LEVELS[first] + 1)
                for other in range(1, LEVELS[second] + 1)
            ),
        )
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    )
    plain, reward, over_sft = cell({}, strength), around(strength), around(strength / 2, 0.02)
    return Controllability(policy, judge, plain, dimensions, pairs, (strength,) * 50, reward, over_sft)


def dpa_results() -> dict[str, Any]:
    return {"prompts": 50, "temperature": 0.7, "judges": {name: judged(shift) for name, shift in JUDGES.items()}}


JUDGES = {"service": 0.0, "second": -0.02}


def judged(shift: float) -> dict[str, Any]:
    curves: dict[str, Any] = {"sft": curve(0.50 + shift, asked=False), "dpo": curve(0.56 + shift, asked=False)}
    curves["steerlm"] = curve(0.51 + shift)
    curves |= {f"iteration-{t}": curve(0.52 + 0.02 * t + shift, 0.03 + 0.015 * t) for t in range(1, 5)}
    return {"components": ["helpfulness", "verbosity"], "reference_point": [0.3, 0.9], "curves": curves}


def curve(helpfulness: float, spread: float = 0.03, *, asked: bool = True) -> dict[str, Any]:
    angles = [math.radians(-45 + 5 * index) for index in range(10)] if asked else [None]
    points = [
        {
            "asked": {} if angle is None else {"helpfulness": math.cos(angle), "verbosity": math.sin(angle)},
            "angle": angle,
            "rewards": {
                "helpfulness": helpfulness + spread * math.sin(angle or 0.0),
                "verbosity": 0.5 + 2 * spread * (angle or 0.0),
            },
            "mean_characters": 100.0,
            "mean_words": 20.0,
            "responses": 50,
            "unscored": 0,
        }
        for angle in angles
    ]
    area = (helpfulness - 0.3) * 0.5
    return {
        "points": points,
        "angle_second": 0.93 if asked else None,
        "angle_second_of_responses": 0.4 if asked else None,
        "angle_length": 0.9 if asked else None,
        "hypervolume": area,
        "hypervolume_interval": [area - 0.01, area + 0.01],
        "dominates": [],
    }


def write_runs(root: Path) -> dict[str, list[Path]]:
    """Write all of it and return the work folders of each run."""
    runs = {"PPO": [root / f"ppo-{seed}" for seed in range(3)], "DPA": [root / "dpa-0"]}
    runs["Online DPO"] = [root / f"online-{seed}" for seed in range(3)]
    for seed, folder in enumerate(runs["PPO"]):
        write_log(folder, seed)
        judges = tuple(controllability("ppo", name, 0.6 - 0.15 * index) for index, name in enumerate(JUDGES))
        write_results(ControllabilityResults(judges, 50, 2, seed), folder / "controllability" / "ppo.json")
    for seed, folder in enumerate(runs["Online DPO"]):
        write_log(folder, seed + 7, name="online_dpo", top=1.4)
    (dpa,) = runs["DPA"]
    for iteration, groups in ((1, 4), (2, 6)):
        write_sampling_log(dpa, iteration, groups)
    (dpa / "dpa" / "evaluation").mkdir(parents=True)
    (dpa / "dpa" / "evaluation" / "results.json").write_text(json.dumps(dpa_results()))
    return runs
