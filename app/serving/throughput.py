"""How fast the engine is, measured. Knows tokens and seconds only."""

MEMORY = 0.9
"""Weight of the past at each pack: about the last ten packs count."""


class Throughput:
    """Tokens per second as a ratio of two exponential moving averages, so that a pack counts by its size."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def tokens_per_second(self) -> float | None:
        """None before the first measurement."""
        return self._tokens / self._seconds if self._seconds > 0 else None

    def record(self, tokens: int, seconds: float) -> None:
        """Count one forward pass in."""
        self._tokens = MEMORY * self._tokens + tokens
        self._seconds = MEMORY * self._seconds + seconds

    def seconds_for(self, tokens: int) -> float | None:
        """Estimate how long `tokens` take; None before the first measurement."""
        rate = self.tokens_per_second
        return None if rate is None else tokens / rate
