"""Figures of DPA's evaluation: a policy's curve, its hypervolume, and whether it obeys the angle. Knows rewards only.

The hypervolume is of (first component, second component with its sign turned where directions count it against a
response), both maximised, over one reference point for all policies of a judge. Angles are signed, so obedience is a
*positive* rank correlation with the second component: see `training.policy.directions`.

P prompts · A ways of asking · C components · N responses
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from app.preferences import DoubleArray
from training.policy.dpa_configs import DpaConfig
from training.policy.hypervolume import dominates, hypervolume, rank_correlation

BOOTSTRAP_DRAWS: Final = 500
MARGIN: Final = 0.1
"""How far beyond the worst the reference point lies, in widths of what is compared: else ends count nothing."""


@dataclass(frozen=True, slots=True)
class AskedResponses:
    """What a policy says when asked in one way: n responses per prompt, and each prompt's rewards (n, C) or None."""

    asked: Mapping[str, float]
    angle: float | None
    responses: Sequence[Sequence[str]]
    rewards: Sequence[DoubleArray | None]


def judged(
    policies: Mapping[str, Sequence[AskedResponses]], names: Sequence[str], config: DpaConfig, seed: int
) -> dict[str, Any]:
    """Return all that one judge says of the policies, ready for JSON; null where there is no number."""
    means = {policy: prompt_means(asked) for policy, asked in policies.items()}
    signs, flat = np.array(config.signs), len(names) == 2
    points = {policy: finite_rows(curve(each) * signs) for policy, each in means.items()} if flat else {}
    reference_2 = reference_point(points, config, signs) if flat else None
    curves: dict[str, dict[str, Any]] = {}
    for policy, asked in policies.items():
        curves[policy] = {"points": [point(each, names) for each in asked], **obedience(asked)}
        if reference_2 is not None:
            curves[policy]["hypervolume"] = hypervolume(points[policy], reference_2)
            interval = hypervolume_interval(means[policy] * signs, reference_2, seed)
            curves[policy]["hypervolume_interval"] = interval
            curves[policy]["dominates"] = [
                other for other in points if other != policy and dominates(points[policy], points[other])
            ]
    reference = None if reference_2 is None else (reference_2 * signs).tolist()
    return {"components": list(names), "reference_point": reference, "curves": curves}


def prompt_means(asked: Sequence[AskedResponses]) -> DoubleArray:
    """Return the mean rewards of each prompt for each way of asking, (A, P, C); NaN where none is scored."""
    components = next((each.shape[-1] for one in asked for each in one.rewards if each is not None), 2)
    means_APC = np.full((len(asked), len(asked[0].rewards), components), np.nan)
    for index, one in enumerate(asked):
        for prompt, rewards_NC in enumerate(one.rewards):
            if rewards_NC is not None and (scored_NC := finite_rows(rewards_NC)).size:
                means_APC[index, prompt] = scored_NC.mean(axis=0)
    return means_APC


def curve(means_APC: DoubleArray) -> DoubleArray:
    """Return the mean over the prompts that were scored, (A, C); NaN where none was."""
    scored_AP1 = np.isfinite(means_APC).all(axis=-1, keepdims=True)
    counts_A1 = scored_AP1.sum(axis=1)
    totals_AC = np.where(scored_AP1, means_APC, 0.0).sum(axis=1)
    curve_AC: DoubleArray = np.where(counts_A1 > 0, totals_AC / np.maximum(counts_A1, 1), np.nan)
    return curve_AC


def finite_rows(values_NC: DoubleArray) -> DoubleArray:
    """Return the rows without a NaN."""
    rows: DoubleArray = values_NC[np.isfinite(values_NC).all(axis=-1)]
    return rows


def reference_point(points: Mapping[str, DoubleArray], config: DpaConfig, signs: DoubleArray) -> DoubleArray | None:
    """Return the recipe's reference point, or one a little worse than all that is compared; both maximised, (2,)."""
    if config.reference_point:
        return np.array(config.reference_point) * signs
    every_N2 = np.concatenate(list(points.values()))
    if len(every_N2) == 0:
        return None
    worst_2: DoubleArray = every_N2.min(axis=0) - MARGIN * np.ptp(every_N2, axis=0)
    return worst_2


def hypervolume_interval(means_AP2: DoubleArray, reference_2: DoubleArray, seed: int) -> list[float]:
    """Return the 95% bootstrap interval over prompts, the same for the same seed."""
    generator, prompts = np.random.default_rng(seed), means_AP2.shape[1]
    drawn = [means_AP2[:, generator.integers(0, prompts, prompts)] for _ in range(BOOTSTRAP_DRAWS)]
    areas = [hypervolume(finite_rows(curve(each)), reference_2) for each in drawn]
    return [float(bound) for bound in np.percentile(areas, [2.5, 97.5])]


def point(asked: AskedResponses, names: Sequence[str]) -> dict[str, Any]:
    """Return one point of a curve: mean rewards of all scored responses, and how long responses really are."""
    mean_C = curve(prompt_means([asked]))[0]
    texts = [text for own in asked.responses for text in own]
    unscored = sum(
        len(own) if given is None else len(own) - len(finite_rows(given))
        for own, given in zip(asked.responses, asked.rewards, strict=True)
    )
    return {
        "asked": dict(asked.asked),
        "angle": asked.angle,
        "rewards": dict(zip(names, map(float, mean_C), strict=True)) if np.isfinite(mean_C).all() else None,
        "mean_characters": float(np.mean([len(text) for text in texts])),
        "mean_words": float(np.mean([len(text.split()) for text in texts])),
        "responses": len(texts),
        "unscored": unscored,
    }


def obedience(asked: Sequence[AskedResponses]) -> dict[str, float | None]:
    """Return Spearman's ρ of the angle asked for and the second component got, of the means and of all responses.

    Positive where the policy obeys: a larger signed angle lets answers be longer. None where there are no angles, or
    one side is constant. `angle_length` is the same with the length of responses in characters, by no reward model.
    """
    if any(each.angle is None for each in asked):
        return {"angle_second": None, "angle_second_of_responses": None, "angle_length": None}
    means_AC = curve(prompt_means(asked))
    known_A = np.isfinite(means_AC).all(axis=-1)
    angles_A = np.array([each.angle for each in asked], dtype=np.float64)
    pairs = [
        (float(each.angle or 0.0), float(row_C[1]))
        for each in asked
        for given in each.rewards
        if given is not None
        for row_C in finite_rows(given)
    ]
    lengths_A = np.array([np.mean([len(text) for own in each.responses for text in own]) for each in asked])
    angles_N, seconds_N = np.array(pairs).reshape(-1, 2).T
    return {
        "angle_second": rank_correlation(angles_A[known_A], means_AC[known_A, 1]),
        "angle_second_of_responses": rank_correlation(angles_N, seconds_N),
        "angle_length": rank_correlation(angles_A, lengths_A),
    }


def table(results: Mapping[str, Any]) -> str:
    """Return the curves as lines of text."""
    lines = []
    for policy, found in results["curves"].items():
        area = found.get("hypervolume")
        rho = found["angle_second"]
        lines.append(f"{policy}: hypervolume {_shown(area)}, ρ(angle, second) {_shown(rho)}")
        for each in found["points"]:
            rewards = ", ".join(f"{name} {value:.3f}" for name, value in (each["rewards"] or {}).items())
            asked = ", ".join(f"{name} {value:.2f}" for name, value in each["asked"].items()) or "nothing"
            lines.append(f"    asked {asked}: got {rewards or 'no reward'}, {each['mean_words']:.1f} words")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
