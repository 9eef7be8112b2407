"""The sections [morlhf] and [rewarded_soups] of a policy's recipe. Knows what may be set, not what it does."""

import math
from dataclasses import dataclass

from training.allowed import require


@dataclass(frozen=True, slots=True)
class MorlhfConfig:
    """One fixed weighting (MOSLIM, Eq. 1); how it is learned is as in the section [ppo]."""

    objectives: tuple[str, ...] = ()
    """`NAME: WEIGHT` each, of objectives of the service."""
    heads: tuple[str, ...] = ()
    """`NAME: WEIGHT` each, of intensity heads: the mapped reward of a head's highest level."""
    learning_rate: float = 0.0
    """0 takes PPO's."""

    def __post_init__(self) -> None:
        require(not (self.objectives and self.heads), "morlhf weighs objectives or heads, not both")
        require(self.learning_rate >= 0, "morlhf.learning_rate must not be negative")
        parsed_weights(self.objectives or self.heads)

    @property
    def weights(self) -> dict[str, float]:
        """The weighting by name."""
        return parsed_weights(self.objectives or self.heads)


def parsed_weights(lines: tuple[str, ...]) -> dict[str, float]:
    """Read `NAME: WEIGHT` lines.

    Raises:
        InvalidRecipe: a line is not of that form, or a name comes twice.
    """
    found: dict[str, float] = {}
    for line in lines:
        name, _, written = (part.strip() for part in line.rpartition(":"))
        try:
            weight = float(written)
        except ValueError:
            weight = math.nan
        whole = bool(name) and name not in found and math.isfinite(weight)
        require(whole, "morlhf must read `NAME: WEIGHT`, each name once")
        found[name] = weight
    return found


@dataclass(frozen=True, slots=True)
class RewardedSoupsConfig:
    """Policies to interpolate (MOSLIM, Eq. 2)."""

    policies: tuple[str, ...] = ()
    """Saved policy folders, of one objective each."""
    weights: tuple[float, ...] = ()
    """λ of each; they sum to 1."""
