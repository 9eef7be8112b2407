"""`/objectives`: why a response scored as it did. Pure: knows readouts and directions, no request.

contributions = coefficients * rewards, and their sum is the score: from the gating network by the identity
score = Σ_K gating * debiased = Σ_K coefficients * rewards (ArmoRM), from a direction by DPA's Eq. 2.

R responses · K objectives
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.api.answers import Difference, DifferenceRow, ObjectiveRow, ObjectivesResult
from app.api.views import floats, item_scores, rewards_of
from app.domain import FloatArray, Objective
from app.preferences import DoubleArray, PreferenceDirection
from app.serving.service import ItemReadouts

OTHER = "other"


@dataclass(frozen=True, slots=True)
class _Explained:
    """One item's numbers in float64; None where the weights, or the lack of a direction, leave them undefined."""

    rewards_RK: DoubleArray
    gating_RK: DoubleArray | None
    coefficients_RK: DoubleArray | None
    scores_R: DoubleArray | None

    @property
    def contributions_RK(self) -> DoubleArray | None:
        return None if self.coefficients_RK is None else self.coefficients_RK * self.rewards_RK


def objectives_result(
    item: ItemReadouts, objectives: Sequence[Objective], direction: PreferenceDirection | None, top_k: int | None
) -> ObjectivesResult:
    """Explain one item's scores: under `direction` where there is one, else under the model's own gating."""
    explained = _explained(item, direction)
    scores = [None] * len(item.readouts) if explained.scores_R is None else floats(explained.scores_R)
    return {
        "responses": [
            {"score": score, "objectives": rows[:top_k] + _other_row(rows, top_k)}
            for score, rows in zip(scores, _rows(explained, objectives, ranked=top_k is not None), strict=True)
        ],
        "gating_entropy": None if explained.gating_RK is None else gating_entropy(explained.gating_RK[0]),
        "differences": _differences(explained, objectives, top_k),
        "truncated": item.truncated,
    }


def percentile(reward: float, quantiles: Sequence[float]) -> float | None:
    """Return the rank of a reward among evenly spaced reference quantiles, 0 to 100; None without a reference.

    Between two quantiles it is interpolated; among equal ones it is the middle of their ranks.
    """
    last = len(quantiles) - 1
    if last < 1:
        return None
    below, up_to = bisect_left(quantiles, reward), bisect_right(quantiles, reward)
    if below < up_to:
        rank = (below + up_to - 1) / 2
    elif 0 < below <= last:
        lower, upper = quantiles[below - 1], quantiles[below]
        rank = below - 1 + (reward - lower) / (upper - lower)
    else:
        rank = min(below, last)
    return 100 * rank / last


def gating_entropy(gating_K: FloatArray | DoubleArray) -> float:
    """Return -Σ g ln g in nats of gating coefficients (K,), normalised to sum to one."""
    shares_K = np.asarray(gating_K, dtype=np.float64) / np.sum(gating_K, dtype=np.float64)
    positive = shares_K[shares_K > 0]
    return float(floats(abs(np.sum(positive * np.log(positive)))))


def _explained(item: ItemReadouts, direction: PreferenceDirection | None) -> _Explained:
    rewards_RK = rewards_of(item)
    gating_RK = _stacked([readout.gating for readout in item.readouts])
    coefficients_RK = (
        _stacked([readout.coefficients for readout in item.readouts])
        if direction is None
        else np.broadcast_to(direction.vector_K, rewards_RK.shape)
    )
    return _Explained(rewards_RK, gating_RK, coefficients_RK, item_scores(item, direction))


def _stacked(arrays: Sequence[FloatArray | None]) -> DoubleArray | None:
    given = [array for array in arrays if array is not None]
    return np.stack(given).astype(np.float64) if given else None


def _rows(explained: _Explained, objectives: Sequence[Objective], *, ranked: bool) -> list[list[ObjectiveRow]]:
    """Return each response's rows, in the objectives' order or the largest |contribution| first."""
    columns = [
        _lists(values_RK, explained.rewards_RK.shape)
        for values_RK in (
            explained.rewards_RK,
            explained.gating_RK,
            explained.coefficients_RK,
            explained.contributions_RK,
        )
    ]
    rows = [
        [_row(objective, *values) for objective, *values in zip(objectives, *lists, strict=True)]
        for lists in zip(*columns, strict=True)
    ]
    if ranked:
        for row in rows:
            row.sort(key=lambda one: -abs(one["contribution"] or 0.0))
    return rows


def _lists(values_RK: DoubleArray | None, shape: tuple[int, ...]) -> list[list[float | None]]:
    return [[None] * shape[1]] * shape[0] if values_RK is None else floats(values_RK)


def _row(
    objective: Objective, reward: float, gating: float | None, coefficient: float | None, contribution: float | None
) -> ObjectiveRow:
    return {
        "name": objective.name,
        "reward": reward,
        "native": None if objective.native is None else objective.native(reward),
        "gating": gating,
        "coefficient": coefficient,
        "contribution": contribution,
        "percentile": percentile(reward, objective.quantiles),
    }


def _other_row(rows: Sequence[ObjectiveRow], top_k: int | None) -> list[ObjectiveRow]:
    """Return the row that stands for those that `top_k` leaves out, if there are any."""
    if top_k is None or len(rows) <= top_k:
        return []
    contribution = sum(row["contribution"] or 0.0 for row in rows[top_k:])
    return [
        {
            "name": OTHER,
            "reward": None,
            "native": None,
            "gating": None,
            "coefficient": None,
            "contribution": contribution,
            "percentile": None,
        }
    ]


def _differences(explained: _Explained, objectives: Sequence[Objective], top_k: int | None) -> list[Difference] | None:
    scores_R, contributions_RK = explained.scores_R, explained.contributions_RK
    if scores_R is None or contributions_RK is None:
        return None
    best = int(np.argmax(scores_R))
    return [
        {
            "best": best,
            "other": other,
            # The scores' own difference would be that of two numbers rounded to float32, off the rows' sum.
            "score_difference": float(floats(difference_K.sum())),
            "objectives": _difference_rows(difference_K, objectives, top_k),
        }
        for other, difference_K in enumerate(contributions_RK[best] - contributions_RK)
        if other != best
    ]


def _difference_rows(
    difference_K: DoubleArray, objectives: Sequence[Objective], top_k: int | None
) -> list[DifferenceRow]:
    rows: list[DifferenceRow] = [
        {"name": objective.name, "difference": difference}
        for objective, difference in zip(objectives, floats(difference_K), strict=True)
    ]
    if top_k is None or len(rows) <= top_k:
        return rows
    rows.sort(key=lambda row: -abs(row["difference"]))
    return [*rows[:top_k], {"name": OTHER, "difference": sum(row["difference"] for row in rows[top_k:])}]
