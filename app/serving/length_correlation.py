"""Whether longer responses to a prompt score higher: verbosity hacking shows here first. Knows no metric.

Per prompt with three or more responses, Spearman's rank correlation of score and response tokens. Ties share their
mean rank; where all scores or all lengths of a prompt are equal there is no correlation, and the prompt does not count.
"""

from collections import deque

import numpy as np
from numpy.typing import ArrayLike, NDArray

DoubleArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

WINDOW_PROMPTS = 256
FEWEST_RESPONSES = 3


class LengthCorrelation:
    """The correlations of the last prompts."""

    def __init__(self, window_prompts: int = WINDOW_PROMPTS) -> None:
        self._recent: deque[float] = deque(maxlen=window_prompts)

    def observe(self, scores_R: ArrayLike, response_tokens_R: ArrayLike, prompt_of_response_R: IndexArray) -> None:
        """Count R responses in, each to the prompt of its index; scores that are not finite are passed over."""
        scores = np.asarray(scores_R, dtype=np.float64)
        finite = np.isfinite(scores)
        if finite.sum() >= FEWEST_RESPONSES:
            tokens = np.asarray(response_tokens_R, dtype=np.float64)
            self._recent.extend(spearman_of_each(scores[finite], tokens[finite], prompt_of_response_R[finite]).tolist())

    def read(self) -> dict[str, float]:
        """Return the mean, -1 … 1, without a label; nothing before the first prompt that counts."""
        return {"": float(np.mean(tuple(self._recent)))} if self._recent else {}


def spearman_of_each(first_R: DoubleArray, second_R: DoubleArray, group_R: IndexArray) -> DoubleArray:
    """Return Spearman's correlation of each group, in order, of those groups that have one."""
    size_G = np.bincount(group_R)
    mean_rank_R = (size_G[group_R] - 1) / 2
    first_R = _ranks_within(first_R, group_R, size_G) - mean_rank_R
    second_R = _ranks_within(second_R, group_R, size_G) - mean_rank_R
    covariance_G = np.bincount(group_R, first_R * second_R)
    scale_G = np.sqrt(np.bincount(group_R, first_R**2) * np.bincount(group_R, second_R**2))
    counts_G = (size_G >= FEWEST_RESPONSES) & (scale_G > 0)
    correlation_G: DoubleArray = covariance_G[counts_G] / scale_G[counts_G]
    return correlation_G


def _ranks_within(values_R: DoubleArray, group_R: IndexArray, size_G: IndexArray) -> DoubleArray:
    """Return each value's rank in its group, from 0; ties share their mean."""
    order_R = np.lexsort((values_R, group_R))
    values_R, groups_R = values_R[order_R], group_R[order_R]
    is_new_R = np.append(True, (values_R[1:] != values_R[:-1]) | (groups_R[1:] != groups_R[:-1]))
    starts = np.flatnonzero(is_new_R)
    stops = np.append(starts[1:], len(values_R))
    first_of_group_R = (np.cumsum(size_G) - size_G)[groups_R]
    ranks_R = np.empty(len(values_R))
    ranks_R[order_R] = np.repeat((starts + stops - 1) / 2, stops - starts) - first_of_group_R
    return ranks_R
