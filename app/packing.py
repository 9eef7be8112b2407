"""Packs: conversations laid out in one flat token sequence, each distinct prefix once. Plain Python and numpy.

    [ prefix A | response A1 | response A2 | prefix B | response B1 ]
      segment 0   segment 1     segment 2    segment 3  segment 4

A token sees the earlier tokens of its own segment and all of its segment's prefix; a response's positions
continue its prefix's. Nothing here knows what a token means or what computes the pack.

T packed tokens · P prompts (distinct prefixes) · R responses · K objectives · C intensity classes of a head
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.domain import FloatArray, Prefix, Readout, TokenizedConversation

IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of packed tokens `start … stop`, and the prefix `prefix_start … prefix_stop` it also sees.

    A prefix segment sees only itself: its own prefix is empty.
    """

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start

    @property
    def num_prefix_tokens(self) -> int:
        return self.prefix_stop - self.prefix_start


@dataclass(frozen=True, slots=True)
class Pack:
    """What one forward pass computes. Responses keep the order in which they were added."""

    token_ids_T: IndexArray
    position_ids_T: IndexArray
    segments: tuple[Segment, ...]
    gating_indices_P: IndexArray
    reward_indices_R: IndexArray
    prefix_of_response_R: IndexArray
    prefix_tokens_P: IndexArray
    response_tokens_R: IndexArray

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids_T)

    @property
    def num_responses(self) -> int:
        return len(self.reward_indices_R)

    @property
    def num_logical_tokens(self) -> int:
        """Tokens of all conversations as if nothing were shared; T is at most that."""
        return int(self.response_tokens_R.sum() + self.prefix_tokens_P[self.prefix_of_response_R].sum())


@dataclass(frozen=True, slots=True)
class PackOutput:
    """What one forward pass says about a pack, in float32 numpy: tensors end at `RewardModel.forward`."""

    rewards_RK: FloatArray
    prefix_of_response_R: IndexArray
    gating_PK: FloatArray | None = None
    coefficients_PK: FloatArray | None = None
    scores_R: FloatArray | None = None
    intensities: Mapping[str, FloatArray] = field(default_factory=dict)
    """Head name to class probabilities (R, C)."""

    def readouts(self) -> list[Readout]:
        """Split into one readout per response, in pack order."""
        return [self._readout(response) for response in range(len(self.rewards_RK))]

    @property
    def is_finite_R(self) -> NDArray[np.bool_]:
        """Say of each response whether all that its readout holds is finite."""
        finite_R: NDArray[np.bool_] = np.all(np.isfinite(self.rewards_RK), axis=-1)
        for values_PK in (self.gating_PK, self.coefficients_PK):
            if values_PK is not None:
                finite_P: NDArray[np.bool_] = np.all(np.isfinite(values_PK), axis=-1)
                finite_R &= finite_P[self.prefix_of_response_R]
        if self.scores_R is not None:
            finite_R &= np.isfinite(self.scores_R)
        for values_RC in self.intensities.values():
            finite_R &= np.all(np.isfinite(values_RC), axis=-1)
        return finite_R

    def _readout(self, response: int) -> Readout:
        prompt = self.prefix_of_response_R[response]
        return Readout(
            rewards=self.rewards_RK[response],
            gating=None if self.gating_PK is None else self.gating_PK[prompt],
            coefficients=None if self.coefficients_PK is None else self.coefficients_PK[prompt],
            score=None if self.scores_R is None else float(self.scores_R[response]),
            intensities={name: values_RC[response] for name, values_RC in self.intensities.items()},
        )


class PackBuilder:
    """Collect conversations up to a token budget, then lay them out."""

    def __init__(self, token_budget: int) -> None:
        self.token_budget = token_budget
        self.num_tokens = 0
        self.num_responses = 0
        self._groups: dict[Prefix, list[tuple[int, tuple[int, ...]]]] = {}

    def cost_tokens(self, conversation: TokenizedConversation) -> int:
        """Return how many tokens the pack would grow by: the response, and the prefix unless it is there."""
        return len(conversation.response_ids) + self.prefix_cost_tokens(conversation.prefix)

    def prefix_cost_tokens(self, prefix: Prefix) -> int:
        """Return how many tokens the pack would grow by if it had to hold this prefix: none where it does."""
        return 0 if prefix in self._groups else len(prefix)

    def try_add(self, conversation: TokenizedConversation) -> bool:
        """Add the conversation if it fits the budget; say whether it did."""
        return bool(self.fill(conversation.prefix, [conversation.response_ids]))

    def fill(self, prefix: Prefix, responses: Sequence[tuple[int, ...]]) -> list[int]:
        """Add those responses to one prefix that fit the budget, in order; return their indices."""
        group = self._groups.get(prefix)
        num_tokens = self.num_tokens + (len(prefix) if group is None else 0)
        added = []
        for index, response_ids in enumerate(responses):
            if num_tokens + len(response_ids) <= self.token_budget:
                num_tokens += len(response_ids)
                added.append(index)
        if added:
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
        token_ids: list[int] = []
        positions: list[IndexArray] = []
        segments: list[Segment] = []
        gating_indices: list[int] = []
        reward_indices = np.zeros(self.num_responses, dtype=np.int64)
        response_tokens = np.zeros(self.num_responses, dtype=np.int64)
        prefix_of_response = np.zeros(self.num_responses, dtype=np.int64)
        for prompt, (shared, responses) in enumerate(self._groups.items()):
            prefix_ids = shared.ids
            prefix = Segment(len(token_ids), len(token_ids) + len(prefix_ids))
            token_ids.extend(prefix_ids)
            positions.append(np.arange(len(prefix_ids)))
            segments.append(prefix)
            gating_indices.append(prefix.start + shared.gating_index)
            for slot, response_ids in responses:
                start = len(token_ids)
                token_ids.extend(response_ids)
                positions.append(np.arange(len(prefix_ids), len(prefix_ids) + len(response_ids)))
                segments.append(Segment(start, len(token_ids), prefix.start, prefix.stop))
                reward_indices[slot] = len(token_ids) - 1
                response_tokens[slot] = len(response_ids)
                prefix_of_response[slot] = prompt
        return Pack(
            token_ids_T=np.asarray(token_ids, dtype=np.int64),
            position_ids_T=np.concatenate(positions),
            segments=tuple(segments),
            gating_indices_P=np.asarray(gating_indices, dtype=np.int64),
            reward_indices_R=reward_indices,
            prefix_of_response_R=prefix_of_response,
            prefix_tokens_P=np.asarray([len(prefix) for prefix in self._groups], dtype=np.int64),
            response_tokens_R=response_tokens,
        )


def builder_of(conversations: Sequence[TokenizedConversation]) -> PackBuilder:
    """Collect exactly these conversations, whatever they cost."""
    builder = PackBuilder(token_budget=sum(conversation.num_tokens for conversation in conversations))
    for conversation in conversations:
        builder.try_add(conversation)
    return builder


def pack_of(conversations: Sequence[TokenizedConversation]) -> Pack:
    """Lay out exactly these conversations, whatever they cost."""
    return builder_of(conversations).build()
