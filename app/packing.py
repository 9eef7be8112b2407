"""Packs: conversations laid out in one flat token sequence, each distinct prefix once. Plain Python and numpy.

    [ prefix A | response A1 | response A2 | prefix B | response B1 ]
      segment 0   segment 1     segment 2    segment 3  segment 4

A token sees the earlier tokens of its own segment and all of its segment's prefix; a response's positions
continue its prefix's. What was computed of a prefix before is not laid out again: its segments carry it. Nothing here
knows what a token means, what computes the pack or what is remembered of it.

T packed tokens · P prompts (distinct prefixes) · R responses · K objectives · C intensity classes of a head
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import FloatArray, Prefix, Readout

IndexArray = NDArray[np.int64]
NOT_IN_PACK = -1
"""The gating index of a prompt whose gating token was computed before."""


class CachedPrefix(Protocol):
    """What is remembered of the beginning of a prefix; stays valid for whoever holds it."""

    @property
    def num_tokens(self) -> int:
        """Of the beginning; where that holds the gating token, what the heads read there is remembered too."""

    @property
    def is_shareable(self) -> bool:
        """Whether what a pack computes of the rest will be remembered for all prompts that begin with it."""


class PrefixMemory(Protocol):
    """What remembers prefixes."""

    @property
    def num_tokens(self) -> int:
        """Tokens remembered now."""

    @property
    def num_evictions(self) -> int:
        """Runs of tokens dropped so far."""

    def find(self, prefix: Prefix) -> CachedPrefix:
        """Return what is remembered of a prefix; where that is nothing, a beginning of 0 tokens."""


Recall: TypeAlias = Callable[[Prefix], CachedPrefix]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of packed tokens `start … stop`, and what it also sees: first what is cached, then a run of the pack.

    A prefix segment sees no other run of the pack; only what is cached of its own beginning.
    """

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0
    cached: CachedPrefix | None = None

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start

    @property
    def num_prefix_tokens(self) -> int:
        """Of all that it sees beside itself."""
        return self.num_cached_tokens + self.prefix_stop - self.prefix_start

    @property
    def num_cached_tokens(self) -> int:
        return 0 if self.cached is None else self.cached.num_tokens


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
    prefix_runs_P: tuple[tuple[int, int], ...]
    """Where the pack holds what is computed of each prefix; an empty run where all of it is cached."""
    cached_P: tuple[CachedPrefix | None, ...]
    """What is remembered of each prefix; None where nobody remembers."""

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

    @property
    def computed_prefix_tokens_P(self) -> IndexArray:
        return np.asarray([stop - start for start, stop in self.prefix_runs_P], dtype=np.int64)

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of prefixes that need not be computed, each prefix once."""
        return int((self.prefix_tokens_P - self.computed_prefix_tokens_P).sum())


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
