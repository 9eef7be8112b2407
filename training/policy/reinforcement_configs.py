"""What the loops that learn from their own samples share: how long, how many at once, how carefully.

Knows no algorithm; each has a section of its own, and adds its keys to these.
"""

from dataclasses import dataclass
from typing import ClassVar

from training.allowed import require


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """Steps that each sample responses, ask for their rewards and learn from them once."""

    SECTION: ClassVar[str] = "loop"
    passes: float = 1.0
    """How many times the run goes through the training prompts."""
    steps: int = 0
    """How many steps it takes instead, where that is not 0."""
    prompts_per_step: int = 64
    responses_per_prompt: int = 1
    learning_rate: float = 1e-6
    warmup_steps: int = 0
    """Updates over which the learning rate rises; it stays from there on."""
    largest_gradient_norm: float = 1.0
    rows_at_once: int = 16
    """Conversations that are in memory at once; gradients add up to the minibatch's, whatever this is."""
    checkpoint_every_steps: int = 20
    """A run that is killed goes on from its last checkpoint, to the same result."""
    learned_tokens: tuple[str, ...] = ()
    """Tokens whose embeddings alone are learned, such as the prefix's (prompt tuning); empty: all that can be."""
    most_failed_steps: int = 5
    """So many steps in a row may have no reward at all before the run stops."""

    def __post_init__(self) -> None:
        counts = ("prompts_per_step", "responses_per_prompt", "rows_at_once")
        for name in (*counts, "checkpoint_every_steps", "most_failed_steps"):
            require(getattr(self, name) >= 1, f"{self.SECTION}.{name} must be at least 1")
        require(self.steps >= 0, f"{self.SECTION}.steps must not be negative; 0 goes by passes")
        require(self.warmup_steps >= 0, f"{self.SECTION}.warmup_steps must not be negative")
        for name in ("passes", "learning_rate", "largest_gradient_norm"):
            require(getattr(self, name) > 0, f"{self.SECTION}.{name} must be positive")

    def num_steps(self, num_prompts: int) -> int:
        """Return how many steps a run over so many prompts takes."""
        return self.steps or max(1, round(self.passes * num_prompts / self.prompts_per_step))
