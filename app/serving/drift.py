"""Whether scores still fall where they did: the population stability index of the last scores. Knows no metric.

    PSI = Σ_b (a_b - e_b) · ln(a_b / e_b)      e expected shares, a actual shares of B bins; 0 … ∞

Bins are the deciles of what is expected, as in credit scoring, where the index comes from and where 0.1 reads "look"
and 0.25 "act". A bin that one side leaves empty would make it infinite, so both sides count half a score more in every
bin (the Krichevsky–Trofimov estimate). Where nothing changed and scores are independent it is about 2 (B - 1) / N by
chance (Yurdakul & Naranjo, 2020), 0.009 for N = 2048; responses that share prompts make that several times as much.
"""

from collections.abc import Sequence
from threading import Lock

import numpy as np
from numpy.typing import ArrayLike, NDArray

DoubleArray = NDArray[np.float64]

WINDOW_SCORES = 2048
DECILES = np.arange(1, 10) / 10
EMPTY_BIN_COUNT = 0.5


def population_stability_index(expected_B: ArrayLike, actual_B: ArrayLike) -> float:
    """Return the index of two histograms over the same B bins, from their counts."""
    expected_shares_B, actual_shares_B = _shares(expected_B), _shares(actual_B)
    return float(np.sum((actual_shares_B - expected_shares_B) * np.log(actual_shares_B / expected_shares_B)))


class ScoreDrift:
    """The last two windows of scores, each held against what was expected of it."""

    def __init__(self, quantiles: Sequence[float], window_scores: int = WINDOW_SCORES) -> None:
        """`quantiles` are evenly spaced quantiles (0 … 1) of the score on reference data, or empty."""
        self._window_scores = window_scores
        self._recent = np.zeros(2 * window_scores)  # a ring: the next score takes the oldest one's place
        self._num_seen = 0
        self._reference = _reference(quantiles) if len(quantiles) > 1 else None
        self._lock = Lock()

    def observe(self, scores_R: ArrayLike) -> None:
        """Count R finite scores in, oldest first."""
        newest = np.asarray(scores_R, dtype=np.float64)[-len(self._recent) :]
        with self._lock:
            places = (self._num_seen + np.arange(len(newest))) % len(self._recent)
            self._recent[places] = newest
            self._num_seen += len(newest)

    def read(self) -> dict[str, float]:
        """Return the index of the last window against the reference and against the window before it.

        Either is left out while there are too few scores for it, and the first where there is no reference.
        """
        with self._lock:
            num_seen = self._num_seen
            oldest_first = np.roll(self._recent, -num_seen % len(self._recent))
        previous, current = np.split(oldest_first, 2)
        read = {}
        if num_seen >= self._window_scores and self._reference is not None:
            edges, shares_B = self._reference
            read["reference"] = population_stability_index(shares_B * len(current), _counts(current, edges))
        if num_seen >= 2 * self._window_scores:
            edges = np.unique(np.quantile(previous, DECILES))
            read["previous"] = population_stability_index(_counts(previous, edges), _counts(current, edges))
        return read


def _shares(counts_B: ArrayLike) -> DoubleArray:
    smoothed_B = np.asarray(counts_B, dtype=np.float64) + EMPTY_BIN_COUNT
    shares_B: DoubleArray = smoothed_B / smoothed_B.sum()
    return shares_B


def _counts(scores: DoubleArray, edges: DoubleArray) -> NDArray[np.int64]:
    """Count per bin; a score that equals an edge belongs to the bin below it."""
    return np.bincount(np.searchsorted(edges, scores, side="left"), minlength=len(edges) + 1)


def _reference(quantiles: Sequence[float]) -> tuple[DoubleArray, DoubleArray]:
    """Return the edges between bins, equal ones merged, and each bin's share of the reference."""
    values = np.asarray(quantiles, dtype=np.float64)
    edges = np.unique(np.interp(DECILES, np.linspace(0, 1, len(values)), values))
    # The share at or below an edge, the distribution being uniform between each two quantiles.
    below = np.searchsorted(values, edges, side="right") - 1
    above = np.append(values, np.inf)[below + 1]
    cumulative = (below + (edges - values[below]) / (above - values[below])) / (len(values) - 1)
    return edges, np.diff(cumulative, prepend=0.0, append=1.0)
