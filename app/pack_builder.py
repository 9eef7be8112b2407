"""Collects conversations up to a token budget and lays them out as a pack. Does not know who waits, or why."""

from collections.abc import Sequence

import numpy as np

from app.domain import Prefix, TokenizedConversation
from app.packing import NOT_IN_PACK, CachedPrefix, IndexArray, Pack, Recall, Segment

LEAST_AWAITED_TOKENS = 256
"""A shorter beginning costs less to compute again than another pack does; a template's header is far shorter."""


class PackBuilder:
    """Collect conversations up to a token budget, then lay them out."""

    def __init__(self, token_budget: int, *, max_tokens: int | None = None, recall: Recall | None = None) -> None:
        """The first response may take up to `max_tokens`, where that is more than the budget.

        `recall` tells what need not be computed of a prefix; it is asked once for each.
        """
        self.token_budget = token_budget
        self._max_tokens = max(token_budget, max_tokens or 0)
        self.num_tokens = 0
        self.num_responses = 0
        self._recall = recall
        self._recalled: dict[Prefix, CachedPrefix] = {}
        self._groups: dict[Prefix, list[tuple[int, tuple[int, ...]]]] = {}
        self._beginnings: set[tuple[int, ...]] = set()
        """What prompts that had better wait for this pack begin with: what is cached, and so much that it computes."""

    def cost_tokens(self, conversation: TokenizedConversation) -> int:
        """Return how many tokens the pack would grow by: the response, and what must be computed of its prefix."""
        return len(conversation.response_ids) + self.prefix_cost_tokens(conversation.prefix)

    def prefix_cost_tokens(self, prefix: Prefix) -> int:
        """Return how many tokens the pack would grow by if it had to hold this prefix: none where it does."""
        return 0 if prefix in self._groups else len(prefix) - self._num_cached_tokens(prefix)

    def is_worth_awaiting(self, prefix: Prefix) -> bool:
        """Say whether the pack computes a long beginning of this prefix, so that after the pack it is remembered.

        That is the same beginning only where both prefixes have as much of it cached, as they have unless their gating
        tokens differ.
        """
        return bool(self._beginnings) and prefix not in self._groups and self._beginning(prefix) in self._beginnings

    @property
    def room_tokens(self) -> int:
        """How many tokens the next response may bring."""
        return (self.token_budget if self._groups else self._max_tokens) - self.num_tokens

    def try_add(self, conversation: TokenizedConversation) -> bool:
        """Add the conversation if it fits the budget; say whether it did."""
        return bool(self.fill(conversation.prefix, [conversation.response_ids]))

    def fill(self, prefix: Prefix, responses: Sequence[tuple[int, ...]]) -> list[int]:
        """Add those responses to one prefix that fit the budget, in order; return their indices."""
        num_tokens = self.num_tokens + self.prefix_cost_tokens(prefix)
        added: list[int] = []
        most = self._max_tokens if not self._groups else self.token_budget
        for index, response_ids in enumerate(responses):
            if num_tokens + len(response_ids) <= most:
                most = self.token_budget
                num_tokens += len(response_ids)
                added.append(index)
        if added:
            self._note_beginning(prefix)
            group = self._groups.setdefault(prefix, [])
            group.extend((self.num_responses + place, responses[index]) for place, index in enumerate(added))
            self.num_tokens = num_tokens
            self.num_responses += len(added)
        return added

    def build(self) -> Pack:
        """Lay the collected conversations out.

        Raises:
            ValueError: nothing was added.
        """
        if not self._groups:
            raise ValueError("an empty pack cannot be built")
        layout = _Layout(self.num_responses)
        for prefix, responses in self._groups.items():
            layout.add(prefix, responses, self._recalled.get(prefix))
        self._recalled.clear()  # the pack has it now, and should be the last to keep it in memory
        return layout.pack()

    def _note_beginning(self, prefix: Prefix) -> None:
        recalled = None if prefix in self._groups else self._ask(prefix)
        if recalled is not None and recalled.is_shareable and (beginning := self._beginning(prefix)):
            self._beginnings.add(beginning)

    def _beginning(self, prefix: Prefix) -> tuple[int, ...]:
        """Return the shortest beginning that is worth awaiting; none where it would be recalled in part only, since
        what the heads read at a gating token is known of whole prompts.
        """
        num_tokens = self._num_cached_tokens(prefix) + LEAST_AWAITED_TOKENS
        return prefix.ids[:num_tokens] if num_tokens <= prefix.gating_index else ()

    def _num_cached_tokens(self, prefix: Prefix) -> int:
        recalled = self._ask(prefix)
        return 0 if recalled is None else recalled.num_tokens

    def _ask(self, prefix: Prefix) -> CachedPrefix | None:
        if self._recall is None:
            return None
        if prefix not in self._recalled:
            self._recalled[prefix] = self._recall(prefix)
        return self._recalled[prefix]


class _Layout:
    """A pack in the making."""

    def __init__(self, num_responses: int) -> None:
        self.token_ids: list[int] = []
        self.positions: list[IndexArray] = []
        self.segments: list[Segment] = []
        self.gating_indices: list[int] = []
        self.prefix_tokens: list[int] = []
        self.prefix_runs: list[tuple[int, int]] = []
        self.cached: list[CachedPrefix | None] = []
        self.reward_indices_R, self.response_tokens_R, self.prefix_of_response_R = (
            np.zeros(num_responses, dtype=np.int64) for _ in range(3)
        )

    def add(
        self, prefix: Prefix, responses: Sequence[tuple[int, tuple[int, ...]]], cached: CachedPrefix | None
    ) -> None:
        """Lay out what must be computed of a prefix, then its responses, each with its place among all responses."""
        num_cached = 0 if cached is None else cached.num_tokens
        seen = cached if num_cached else None
        start = len(self.token_ids)
        run = (start, start + len(prefix) - num_cached)
        if num_cached < len(prefix):
            self._add_segment(prefix.ids[num_cached:], num_cached, Segment(*run, cached=seen))
        for place, response_ids in responses:
            own = len(self.token_ids)
            self._add_segment(response_ids, len(prefix), Segment(own, own + len(response_ids), *run, seen))
            self.reward_indices_R[place] = len(self.token_ids) - 1
            self.response_tokens_R[place] = len(response_ids)
            self.prefix_of_response_R[place] = len(self.prefix_runs)
        is_laid_out = prefix.gating_index >= num_cached
        self.gating_indices.append(start + prefix.gating_index - num_cached if is_laid_out else NOT_IN_PACK)
        self.prefix_tokens.append(len(prefix))
        self.prefix_runs.append(run)
        self.cached.append(cached)

    def pack(self) -> Pack:
        return Pack(
            token_ids_T=np.asarray(self.token_ids, dtype=np.int64),
            position_ids_T=np.concatenate(self.positions),
            segments=tuple(self.segments),
            gating_indices_P=np.asarray(self.gating_indices, dtype=np.int64),
            reward_indices_R=self.reward_indices_R,
            prefix_of_response_R=self.prefix_of_response_R,
            prefix_tokens_P=np.asarray(self.prefix_tokens, dtype=np.int64),
            response_tokens_R=self.response_tokens_R,
            prefix_runs_P=tuple(self.prefix_runs),
            cached_P=tuple(self.cached),
        )

    def _add_segment(self, token_ids: tuple[int, ...], position: int, segment: Segment) -> None:
        self.token_ids.extend(token_ids)
        self.positions.append(np.arange(position, position + len(token_ids)))
        self.segments.append(segment)


def builder_of(conversations: Sequence[TokenizedConversation]) -> PackBuilder:
    """Collect exactly these conversations, whatever they cost."""
    builder = PackBuilder(token_budget=sum(conversation.num_tokens for conversation in conversations))
    for conversation in conversations:
        builder.try_add(conversation)
    return builder


def pack_of(conversations: Sequence[TokenizedConversation]) -> Pack:
    """Lay out exactly these conversations, whatever they cost."""
    return builder_of(conversations).build()
