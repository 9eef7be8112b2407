"""The types that flow through armoserve. They know no tensor, no tokenizer and no HTTP.

Shape legend (used in all code and docs): T packed tokens · P prompts (distinct prefixes) · R responses ·
D hidden size · K objectives · H intensity heads · C intensity classes of a head
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidConversation, UnknownName

FloatArray = NDArray[np.float32]
Role = Literal["system", "user", "assistant"]
Truncation = Literal["never", "prompt_left"]
GatingToken = Literal["end_of_turn", "last_prompt_token"]
MappingStatistics = Literal["exact", "running"]
"""Of one pass over the training part when the heads were done, or averages kept while they learned."""


def is_unicode(text: str) -> bool:
    """Say whether a text is free of lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise InvalidConversation(f"role must be one of {', '.join(get_args(Role))}")


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt with one or more responses: what a caller wants scored together.

    A conversation to rate is an item with one response, a preference pair is an item with two.

    Raises:
        InvalidConversation: the prompt is not `system? user (assistant user)*`, or there is no response.
    """

    prompt: tuple[Message, ...]
    responses: tuple[str, ...]

    def __post_init__(self) -> None:
        turns = self.prompt[1:] if self.prompt and self.prompt[0].role == "system" else self.prompt
        if not turns or turns[-1].role != "user":
            raise InvalidConversation("the prompt must end with a user message")
        for index, message in enumerate(turns):
            expected = "user" if index % 2 == 0 else "assistant"
            if message.role != expected:
                position = index + len(self.prompt) - len(turns)
                raise InvalidConversation(
                    f"prompt message {position} has the role {message.role} where {expected} is due: "
                    "an optional system message first, then user and assistant in turn"
                )
        if not self.responses:
            raise InvalidConversation("there is no response to score")


class Prefix:
    """Token ids and gating index: what conversations must agree on to share a prefix in a pack.

    Hashed once, and compared by content only with others of the same hash: a tuple of thousands of ids is walked
    whenever it is looked up.
    """

    __slots__ = ("_hash", "gating_index", "ids")

    def __init__(self, ids: tuple[int, ...], gating_index: int) -> None:
        self.ids = ids
        self.gating_index = gating_index
        self._hash = hash((ids, gating_index))

    def __len__(self) -> int:
        return len(self.ids)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prefix):
            return NotImplemented
        return self.gating_index == other.gating_index and (self.ids is other.ids or self.ids == other.ids)


@dataclass(frozen=True, slots=True)
class TokenizedConversation:
    """The exact token ids of one rendered conversation, cut where responses may share the prompt.

    `prefix_ids + response_ids` is the whole rendering. `gating_index` is a position in `prefix_ids`:
    the token whose hidden state is f(x), the input of the gating MLP.
    """

    prefix_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    gating_index: int
    known_prefix: Prefix | None = field(default=None, repr=False, compare=False)
    """Where many conversations share a prefix: the one object for all of them."""

    def __post_init__(self) -> None:
        if not self.prefix_ids or not self.response_ids:
            raise ValueError("a conversation needs prefix and response tokens. This is a bug.")
        if not 0 <= self.gating_index < len(self.prefix_ids):
            raise ValueError("the gating index must lie in the prefix. This is a bug.")

    @property
    def prefix(self) -> Prefix:
        return self.known_prefix or Prefix(self.prefix_ids, self.gating_index)

    @property
    def num_tokens(self) -> int:
        return len(self.prefix_ids) + len(self.response_ids)


@dataclass(frozen=True, slots=True)
class TokenizedItem:
    """One tokenized conversation per response of an item, in order; they share `prefix_ids` where they can."""

    conversations: tuple[TokenizedConversation, ...]
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Readout:
    """Everything one forward pass says about one response. Every route is a view of it.

    `rewards` (K,) raw; `gating` and `coefficients` (K,), None without a gating network;
    `score` None where several objectives have no gating; `intensities` maps a head to its
    class probabilities (C,).
    """

    rewards: FloatArray
    gating: FloatArray | None
    coefficients: FloatArray | None
    score: float | None
    intensities: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in seconds; `forward` is the slowest pack that carried one of its jobs."""

    tokenize_seconds: float = 0.0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class NativeScale:
    """A reward in the scale of the data set it was learned from: `native = slope * reward + intercept`."""

    slope: float
    intercept: float

    def __call__(self, reward: float) -> float:
        return self.slope * reward + self.intercept


@dataclass(frozen=True, slots=True)
class Objective:
    """One column of the regression head.

    `quantiles` are evenly spaced quantiles (0 … 1) of the reward on reference data, or empty.
    """

    name: str
    description: str = ""
    source: str = ""
    native: NativeScale | None = None
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class IntensityHead:
    """One MOSLIM head: its classes 1 … C and the statistics of its reward mapping (Eq. 11)."""

    name: str
    classes: int
    mapping_mean: tuple[float, ...]
    mapping_std: tuple[float, ...]
    statistics: MappingStatistics | None = None
    """Which those are, where the weights say so."""

    def __post_init__(self) -> None:
        if not len(self.mapping_mean) == len(self.mapping_std) == self.classes:
            raise ValueError(f"head {self.name} needs a mean and a std per class")
        if not all(0 < std < math.inf for std in self.mapping_std):
            raise ValueError(f"head {self.name} has a class whose std is not positive and finite")
        if not all(map(math.isfinite, self.mapping_mean)):
            raise ValueError(f"head {self.name} has a class whose mean is not finite")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a loaded reward model is, in words and numbers: enough for every view of a readout."""

    name: str
    revision: str
    template: str
    dtype: str
    device: str
    objectives: tuple[Objective, ...]
    has_gating: bool
    max_conversation_tokens: int
    composites: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    heads: tuple[IntensityHead, ...] = ()
    score_quantiles: tuple[float, ...] = ()
    description: str = ""
    quantization: str = "none"

    @property
    def has_scalar(self) -> bool:
        """Whether `Readout.score` exists without a preference direction."""
        return self.has_gating or len(self.objectives) == 1

    @property
    def precision(self) -> str:
        """The backbone's number type and, where they have another, that of its linear layers: `bfloat16+int8`."""
        return self.dtype if self.quantization == "none" else f"{self.dtype}+{self.quantization}"

    @property
    def objective_names(self) -> tuple[str, ...]:
        return tuple(objective.name for objective in self.objectives)

    def head(self, name: str) -> IntensityHead:
        """Return the head called `name`.

        Raises:
            UnknownName: there is none; the message lists those there are.
        """
        for head in self.heads:
            if head.name == name:
                return head
        raise UnknownName(f"unknown head; these weights have {', '.join(h.name for h in self.heads) or 'none'}")
