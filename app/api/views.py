"""`/score`'s view of readouts, and what all views share. Pure: knows readouts and directions, no request.

Values are computed in float64 from the model's float32 and must be finite: an answer never holds NaN or infinity.

R responses · K objectives
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from app.api.answers import Answer, ErrorResult, ModelAnswer, ScoreResult
from app.api.problems import problem_of
from app.domain import ModelInfo
from app.errors import ArmoserveError, NonFiniteReadout
from app.preferences import DoubleArray, PreferenceDirection
from app.serving.service import ItemReadouts, ScoredItems

Outcome = TypeVar("Outcome")
Result = TypeVar("Result")


def score_result(
    item: ItemReadouts, scalar: PreferenceDirection | None, directions: Sequence[PreferenceDirection]
) -> ScoreResult:
    """Return one item's scores, under the weights' own scalar and under each direction."""
    scores_R = item_scores(item, scalar)
    result: ScoreResult = {
        "scores": None if scores_R is None else floats(scores_R),
        "best": None if scores_R is None else int(np.argmax(scores_R)),
        "tokens": {"prompt": item.prompt_tokens, "responses": list(item.response_tokens)},
        "truncated": item.truncated,
    }
    if directions:
        preference_scores = [direction.scores(rewards_of(item)) for direction in directions]
        result["preference_scores"] = [floats(scores_R) for scores_R in preference_scores]
        result["preference_best"] = [int(np.argmax(scores_R)) for scores_R in preference_scores]
    return result


def item_scores(item: ItemReadouts, scalar: PreferenceDirection | None) -> DoubleArray | None:
    """Return the scores (R,): under `scalar` where there is one, else the model's own; None where it has none."""
    if scalar is not None:
        return scalar.scores(rewards_of(item))
    scores = [readout.score for readout in item.readouts]
    return None if None in scores else np.asarray(scores, dtype=np.float64)


def rewards_of(item: ItemReadouts) -> DoubleArray:
    """Return the raw rewards of an item's responses, (R, K)."""
    return np.stack([readout.rewards for readout in item.readouts]).astype(np.float64)


def floats(values: ArrayLike) -> Any:
    """Return values as Python floats, in nested lists for an array.

    Raises:
        NonFiniteReadout: one is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise NonFiniteReadout("a value of this answer is not a finite number")
    return array.tolist()


def results_of(
    outcomes: Sequence[Outcome | ArmoserveError], view: Callable[[Outcome, int], Result], *, is_single: bool
) -> list[Result | ErrorResult]:
    """View each item's outcome; an item's error stands in its place, or is raised where the item is the request."""
    results = [_result_or_error(outcome, view, index) for index, outcome in enumerate(outcomes)]
    if is_single and isinstance(results[0], ArmoserveError):
        raise results[0]
    return [_error_result(result) if isinstance(result, ArmoserveError) else result for result in results]


def answer_frame(scored: ScoredItems, info: ModelInfo) -> Answer:
    """Return what every scoring route adds to its results."""
    timings = scored.timings
    return {
        "model": model_answer(info),
        "usage": {
            "prompt_tokens": scored.usage.prompt_tokens,
            "response_tokens": scored.usage.response_tokens,
            "computed_tokens": scored.usage.computed_tokens,
        },
        "timings_ms": {
            "tokenize": floats(timings.tokenize_seconds * 1000),
            "queue": floats(timings.queue_seconds * 1000),
            "forward": floats(timings.forward_seconds * 1000),
        },
    }


def model_answer(info: ModelInfo) -> ModelAnswer:
    return {"name": info.name, "revision": info.revision, "template": info.template, "dtype": info.precision}


def directions_used(directions: Sequence[PreferenceDirection]) -> list[Mapping[str, float]]:
    """Return the unit vectors of the directions, by the names the caller used."""
    return [dict(direction.weights) for direction in directions]


def _error_result(error: ArmoserveError) -> ErrorResult:
    return {"error": {"type": problem_of(error).type, "message": str(error)}}


def _result_or_error(
    outcome: Outcome | ArmoserveError, view: Callable[[Outcome, int], Result], index: int
) -> Result | ArmoserveError:
    if isinstance(outcome, ArmoserveError):
        return outcome
    try:
        return view(outcome, index)
    except ArmoserveError as error:
        return error
