"""How large the next pack may be: as many tokens as were lately computed in half a second, within a hard limit.

What comes while a pack runs waits for its end, so a pack that takes long makes everybody wait, and on a CPU large packs
are no cheaper by the token. On a large GPU half a second is more than any pack takes, and the limit is all that
counts.
"""

from app.pack_builder import PackBuilder
from app.packing import Recall

PACK_SECONDS = 0.5
LEAST_TOKENS = 512
"""The first pack, of which no speed is known; and where a forward pass takes long however small it is."""
MEMORY = 0.9
"""Weight of the past at each pack: about the last ten packs count."""


class PackPlan:
    """Begins packs; learns how many tokens go through in `pack_seconds`."""

    def __init__(self, max_tokens: int, *, pack_seconds: float = PACK_SECONDS, recall: Recall | None = None) -> None:
        """`recall` tells what need not be computed of a prefix."""
        self.max_tokens = max_tokens
        self._pack_seconds = pack_seconds
        self._recall = recall
        self._tokens = 0.0
        self._cached_tokens = 0.0
        self._seconds = 0.0

    @property
    def budget_tokens(self) -> int:
        """Tokens that the next pack may hold; a first response that is longer has a pack of its own."""
        if self._pack_seconds == float("inf"):
            return self.max_tokens
        lately = self._pack_seconds * self._tokens / self._seconds if self._seconds else 0.0
        return int(min(self.max_tokens, max(lately, LEAST_TOKENS)))

    @property
    def full_pack_tokens(self) -> int:
        """Tokens of waiting responses and prompts that such a pack answers, by what was lately cached of them."""
        answered_share = 1 + self._cached_tokens / self._tokens if self._tokens else 1.0
        return max(1, int(self.budget_tokens * answered_share))

    def new_pack(self) -> PackBuilder:
        """Begin a pack."""
        return PackBuilder(self.budget_tokens, max_tokens=self.max_tokens, recall=self._recall)

    def record(self, computed_tokens: int, seconds: float, cached_tokens: int = 0) -> None:
        """Learn from a forward pass. A pack's fixed cost makes small ones look slow, so what is learnt is never
        too much, and grows with the packs.
        """
        self._tokens = MEMORY * self._tokens + computed_tokens
        self._cached_tokens = MEMORY * self._cached_tokens + cached_tokens
        self._seconds = MEMORY * self._seconds + seconds
