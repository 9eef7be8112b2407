"""Preference directions (DPA, Eq. 2): one scalar out of several objectives. Pure numpy; knows no model and no HTTP.

A direction weighs objectives and *composites*, named weighted sums of objectives. It is normalised over the
names it uses, then written out over all objectives.

R responses · K objectives
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain import FloatArray
from app.errors import MalformedBody, UnknownName

DoubleArray = NDArray[np.float64]
Weights = Mapping[str, float]
LONGEST_NAME_SHOWN = 32
SHOWABLE_NAME = re.compile(r"[A-Za-z0-9_-]+")
NAME_NOT_SHOWN = "with a name that is not shown"


@dataclass(frozen=True, slots=True)
class PreferenceDirection:
    """A unit vector over the names the caller used, and the same direction over all objectives."""

    weights: Weights
    vector_K: DoubleArray

    def scores(self, rewards_RK: FloatArray | DoubleArray) -> DoubleArray:
        """Return R(x, v, y) = v · r(x, y) for each response, (R,), in float64 (DPA, Eq. 2)."""
        return np.asarray(rewards_RK, dtype=np.float64) @ self.vector_K


def preference_direction(
    weights: Weights, objective_names: Sequence[str], composites: Mapping[str, Weights]
) -> PreferenceDirection:
    """Normalise `weights` to ‖v‖₂ = 1 over the names it uses and expand it over the objectives.

    Raises:
        UnknownName: a name is neither an objective nor a composite; the message lists those there are.
        MalformedBody: the direction is zero, or too large to be computed.
    """
    unit = _unit_vector(weights)
    vector_K = np.zeros(len(objective_names))
    for name, weight in unit.items():
        vector_K += weight * _component(name, objective_names, composites)
    if not np.isfinite(vector_K).all():
        raise MalformedBody("a preference direction has weights too large to be computed")
    if not vector_K.any():
        raise MalformedBody("a preference direction is zero: at least one objective needs a weight other than 0")
    return PreferenceDirection(unit, vector_K)


def check_composites(composites: Mapping[str, Weights], objective_names: Sequence[str]) -> None:
    """Check that every composite weighs known objectives and hides none of them.

    Raises:
        UnknownName: a composite weighs something that is not an objective.
        MalformedBody: a composite has the name of an objective.
    """
    for name, weights in composites.items():
        if name in objective_names:
            raise MalformedBody(f"composite {shown(name)} has the name of an objective")
        _composite_vector(weights, objective_names)


def shown(name: str) -> str:
    """Return a caller's name as a message may show it: quoted and short, and only where it reads like a name."""
    return repr(shortened(name)) if is_showable(name) else NAME_NOT_SHOWN


def is_showable(name: str) -> bool:
    """Tell a name from text, which a message must not repeat."""
    return SHOWABLE_NAME.fullmatch(name) is not None


def shortened(name: str, longest: int = LONGEST_NAME_SHOWN) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _unit_vector(weights: Weights) -> dict[str, float]:
    largest = max((abs(weight) for weight in weights.values()), default=0.0)
    if not np.isfinite(largest):
        raise MalformedBody("a preference direction has a weight that is not a finite number")
    if largest == 0.0:
        raise MalformedBody("a preference direction is zero: at least one objective needs a weight other than 0")
    # Scaled by the largest first: squares of weights like 1e300 would overflow.
    scaled = {name: weight / largest for name, weight in weights.items()}
    norm = float(np.linalg.norm(list(scaled.values())))
    return {name: weight / norm for name, weight in scaled.items()}


def _component(name: str, objective_names: Sequence[str], composites: Mapping[str, Weights]) -> DoubleArray:
    if name in composites:
        return _composite_vector(composites[name], objective_names)
    if name not in objective_names:
        known = ", ".join([*objective_names, *composites])
        raise UnknownName(f"unknown objective or composite {shown(name)}; these weights have {known}")
    return _composite_vector({name: 1.0}, objective_names)


def _composite_vector(weights: Weights, objective_names: Sequence[str]) -> DoubleArray:
    vector_K = np.zeros(len(objective_names))
    for name, weight in weights.items():
        if name not in objective_names:
            known = ", ".join(objective_names)
            raise UnknownName(f"a composite weighs the unknown objective {shown(name)}; these weights have {known}")
        vector_K[objective_names.index(name)] = weight
    return vector_K
