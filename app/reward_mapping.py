"""Intensities and the reward mapping (MOSLIM, Eq. 11). Pure numpy; used by the server, by training and by tests.

Levels are 1-based everywhere a person sees them: a head with C classes has the levels 1 … C.

C intensity classes of a head
"""

from collections.abc import Mapping, Sequence

import numpy as np

from app.domain import FloatArray, IntensityHead
from app.errors import UnknownName
from app.preferences import DoubleArray, shown

Probabilities = FloatArray | DoubleArray


def mapped_reward(
    probabilities: Mapping[str, Probabilities], targets: Mapping[str, int], heads: Sequence[IntensityHead]
) -> float:
    """Map class probabilities to one reward for the targeted intensities.

    reward = (1/k) Σ_i mask_i (p_i[target_i] - mean_i[target_i]) / std_i[target_i]     (MOSLIM, Eq. 11)

    k counts all heads, targeted or not. `probabilities` has (C,) per head; `targets` are 1-based levels.

    Raises:
        UnknownName: a target names no head, or a level that its head does not have.
        ValueError: there is no target at all, so there is no reward.
    """
    if not targets:
        raise ValueError("a mapped reward needs at least one target")
    check_targets(targets, heads)
    terms = [
        _standardised(head, probabilities[head.name], targets[head.name]) for head in heads if head.name in targets
    ]
    return sum(terms) / len(heads)


def check_targets(targets: Mapping[str, int], heads: Sequence[IntensityHead]) -> None:
    """Check that every target names a head and one of its levels.

    Raises:
        UnknownName: one does not; the message lists what is allowed.
    """
    classes = {head.name: head.classes for head in heads}
    for name, level in targets.items():
        if name not in classes:
            raise UnknownName(f"unknown head {shown(name)}; these weights have {', '.join(classes) or 'none'}")
        if not 1 <= level <= classes[name]:
            raise UnknownName(f"the target of {name} must be a level from 1 to {classes[name]}")


def expected_intensity(probabilities: Probabilities) -> float:
    """Return the mean level Σ_c c · p[c] of a head's class probabilities (C,), between 1 and C."""
    levels_C = np.arange(1, len(probabilities) + 1)
    return float(np.asarray(probabilities, dtype=np.float64) @ levels_C)


def classified_intensity(probabilities: Probabilities) -> int:
    """Return the most probable level, 1 … C; the lower one of equals."""
    return int(np.argmax(probabilities)) + 1


def _standardised(head: IntensityHead, probabilities: Probabilities, level: int) -> float:
    index = level - 1
    return (float(probabilities[index]) - head.mapping_mean[index]) / head.mapping_std[index]
