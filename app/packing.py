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

from app.domain import FloatArray, Readout, TokenizedConversation

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
    num_logical_tokens: int
    """Tokens of all conversations as if nothing were shared; T is at most that."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids_T)

    @property
    def num_responses(self) -> int:
        return len(self.reward_indices_R)


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
        self._groups: dict[tuple[tuple[int, ...], int], list[tuple[int, tuple[int, ...]]]] = {}

    def cost_tokens(self, conversation: TokenizedConversation) -> int:
        """Return how many tokens the pack would grow by: the response, and the prefix unless it is there."""
        known = (conversation.prefix_ids, conversation.gating_index) in self._groups
        return len(conversation.response_ids) + (0 if known else len(conversation.prefix_ids))

    def try_add(self, conversation: TokenizedConversation) -> bool:
        """Add the conversation if it fits the budget; say whether it did."""
        cost = self.cost_tokens(conversation)
        if self.num_tokens + cost > self.token_budget:
            return False
        key = (conversation.prefix_ids, conversation.gating_index)
        self._groups.setdefault(key, []).append((self.num_responses, conversation.response_ids))
        self.num_tokens += cost
        self.num_responses += 1
        return True

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
        prefix_of_response = np.zeros(self.num_responses, dtype=np.int64)
        num_logical_tokens = 0
        for prompt, ((prefix_ids, gating_index), responses) in enumerate(self._groups.items()):
            prefix = Segment(len(token_ids), len(token_ids) + len(prefix_ids))
            token_ids.extend(prefix_ids)
            positions.append(np.arange(len(prefix_ids)))
            segments.append(prefix)
            gating_indices.append(prefix.start + gating_index)
            for slot, response_ids in responses:
                start = len(token_ids)
                token_ids.extend(response_ids)
                positions.append(np.arange(len(prefix_ids), len(prefix_ids) + len(response_ids)))
                segments.append(Segment(start, len(token_ids), prefix.start, prefix.stop))
                reward_indices[slot] = len(token_ids) - 1
                prefix_of_response[slot] = prompt
                num_logical_tokens += len(prefix_ids) + len(response_ids)
        return Pack(
            token_ids_T=np.asarray(token_ids, dtype=np.int64),
            position_ids_T=np.concatenate(positions),
            segments=tuple(segments),
            gating_indices_P=np.asarray(gating_indices, dtype=np.int64),
            reward_indices_R=reward_indices,
            prefix_of_response_R=prefix_of_response,
            num_logical_tokens=num_logical_tokens,
        )


def pack_of(conversations: Sequence[TokenizedConversation]) -> Pack:
    """Lay out exactly these conversations, whatever they cost."""
    builder = PackBuilder(token_budget=sum(conversation.num_tokens for conversation in conversations))
    for conversation in conversations:
        builder.try_add(conversation)
    return builder.build()
