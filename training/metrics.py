"""Accuracies and their 95% intervals. Pure functions of margins: score(chosen) − score(rejected)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
NORMAL_95: Final = 1.959963984540054
BOOTSTRAP_DRAWS: Final = 2000


def accuracy_by_source(margins_B: Array, sources: Sequence[str]) -> dict[str, float]:
    """Return the share of positive margins per source; a tie is an error."""
    names = np.asarray(sources)
    return {name: float(np.mean(margins_B[names == name] > 0)) for name in sorted(set(sources))}


def macro_mean(values: Mapping[str, float]) -> float:
    """Return the mean over the sources, each counting once; NaN where there is none."""
    return float(np.mean(list(values.values()))) if values else math.nan


def wilson_interval(num_right: float, num_pairs: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share."""
    share, z2 = num_right / num_pairs, NORMAL_95**2
    centre = share + z2 / (2 * num_pairs)
    spread = NORMAL_95 * math.sqrt(share * (1 - share) / num_pairs + z2 / (4 * num_pairs**2))
    scale = 1 + z2 / num_pairs
    return (centre - spread) / scale, (centre + spread) / scale


def group_means(right_B: Array, groups: Sequence[str]) -> Array:
    """Return the mean of each group, in order of first appearance."""
    totals: dict[str, list[float]] = {}
    for group, right in zip(groups, right_B, strict=True):
        totals.setdefault(group, []).append(float(right))
    return np.array([np.mean(values) for values in totals.values()])


def bootstrap_interval(values_N: Array, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of a mean, the same for the same seed."""
    draws = np.random.default_rng(seed).integers(0, len(values_N), size=(BOOTSTRAP_DRAWS, len(values_N)))
    low, high = np.percentile(values_N[draws].mean(axis=-1), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class SubsetAccuracy:
    """Accuracy on one subset with its 95% interval; `num_units` is what was averaged: pairs, or groups of pairs."""

    subset: str
    section: str
    accuracy: float
    low: float
    high: float
    num_pairs: int
    num_units: int


def subset_accuracy(subset: str, section: str, margins_B: Array, groups: Sequence[str]) -> SubsetAccuracy:
    """Measure one subset: the share of positive margins, Wilson's interval.

    Where several pairs share a group, groups are averaged first and the interval is a bootstrap over groups.
    """
    right_B = (margins_B > 0).astype(np.float64)
    units = group_means(right_B, groups)
    if len(units) == len(right_B):
        low, high = wilson_interval(float(right_B.sum()), len(right_B))
    else:
        low, high = bootstrap_interval(units)
    return SubsetAccuracy(subset, section, float(units.mean()), low, high, len(right_B), len(units))
