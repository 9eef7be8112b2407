"""How long the engine takes, measured: a line through its forward passes. Knows tokens and seconds only.

    seconds = seconds_per_pack + seconds_per_token · tokens

A pass costs something however small it is, so the rate seen in small packs says nothing of large ones: the line
charges that cost once a pack, of the size that full packs have now. Sizes that differ by little against a full pack say
nothing of the cost of a token: until others were seen, all is held to be cost of a pack. An estimate that is too low
lets work wait for the next measurement; one that is too high turns work away for nothing.
"""

import math

MEMORY = 0.9
"""Weight of the past at each pack: about the last ten packs count."""
TELLING_SHARE = 0.05
"""Of a full pack: sizes must differ by more than this for the slope to be believed."""


class Throughput:
    """Least squares over recent packs, each weighing `MEMORY` times the next one."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean_tokens = 0.0
        self._mean_seconds = 0.0
        self._variance = 0.0
        self._covariance = 0.0

    def record(self, tokens: int, seconds: float) -> None:
        """Count one forward pass in, by Welford's update with forgetting."""
        self._weight = MEMORY * self._weight + 1.0
        share = 1.0 / self._weight
        tokens_off, seconds_off = tokens - self._mean_tokens, seconds - self._mean_seconds
        self._mean_tokens += share * tokens_off
        self._mean_seconds += share * seconds_off
        self._variance = (1 - share) * (self._variance + share * tokens_off**2)
        self._covariance = (1 - share) * (self._covariance + share * tokens_off * seconds_off)

    def seconds_for(self, tokens: int, pack_tokens: int) -> float | None:
        """Estimate how long `tokens` take in packs that hold `pack_tokens`; None before the first measurement."""
        if not self._weight:
            return None
        doubt = (TELLING_SHARE * pack_tokens) ** 2
        slope = self._covariance / (self._variance + doubt)
        per_token = min(max(0.0, slope), self._mean_seconds / self._mean_tokens)  # neither cost is below zero
        per_pack = self._mean_seconds - per_token * self._mean_tokens
        return math.ceil(tokens / pack_tokens) * per_pack + tokens * per_token
