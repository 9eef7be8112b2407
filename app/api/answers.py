"""What the scoring routes answer, as types.

Views build them, the OpenAPI document describes them, and tests hold what is served to them.
"""

from typing import NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

documented = with_config(ConfigDict(use_attribute_docstrings=True, extra="forbid"))


@documented
class ModelAnswer(TypedDict):
    """The model that scored. Scores of two revisions must not be mixed."""

    name: str
    revision: str
    """Short SHA-256 of every file that affects a score."""
    template: str
    """Short SHA-256 of all that decides how a conversation is rendered."""
    dtype: str
    """Number type of the backbone and, where they are quantised, of its linear layers: `bfloat16+int8`."""


@documented
class UsageAnswer(TypedDict):
    """Tokens; computed is below the sum where prefixes were shared."""

    prompt_tokens: int
    response_tokens: int
    computed_tokens: int


@documented
class TimingsAnswer(TypedDict):
    """Where the time went, in milliseconds."""

    tokenize: float
    queue: float
    forward: float


@documented
class ItemError(TypedDict):
    """What was wrong with one item."""

    type: str
    message: str


@documented
class ErrorResult(TypedDict):
    """In place of a result: this item alone is at fault."""

    error: ItemError


@documented
class TokenCounts(TypedDict):
    """Tokens of one item."""

    prompt: int
    responses: list[int]


@documented
class ScoreResult(TypedDict):
    """The scores of one item's responses. Scores compare responses to one prompt."""

    scores: list[float] | None
    """Per response; raw. null where the weights have no scalar of their own and several `preferences` were given."""
    best: int | None
    """Index of the highest score."""
    preference_scores: NotRequired[list[list[float]]]
    """Per direction, per response."""
    preference_best: NotRequired[list[int]]
    """Per direction, the index of its highest score."""
    tokens: TokenCounts
    truncated: bool


@documented
class Answer(TypedDict):
    """What every scoring route adds."""

    model: ModelAnswer
    usage: UsageAnswer
    timings_ms: TimingsAnswer


@documented
class ScoreAnswer(Answer):
    """The answer of `POST /score`."""

    results: list[ScoreResult | ErrorResult]
    preferences: NotRequired[list[dict[str, float]]]
    """The unit vectors used."""


@documented
class ObjectiveRow(TypedDict):
    """One objective's part in a score."""

    name: str
    """The objective, or `other`: the sum of those that `top_k` left out."""
    reward: float | None
    """Raw."""
    native: float | None
    """The reward in its data set's own scale."""
    gating: float | None
    """What the prompt makes of the objective's debiased reward."""
    coefficient: float | None
    """What the raw reward is multiplied with: gating after the reward transform."""
    contribution: float | None
    """coefficient x reward; all of them sum to the score."""
    percentile: float | None
    """Rank of the reward in the reference distribution, 0 to 100."""


@documented
class ExplainedResponse(TypedDict):
    """One response's score, objective by objective."""

    score: float | None
    objectives: list[ObjectiveRow]


@documented
class DifferenceRow(TypedDict):
    """One objective's part in a difference."""

    name: str
    difference: float


@documented
class Difference(TypedDict):
    """What made the best response beat another."""

    best: int
    other: int
    score_difference: float
    objectives: list[DifferenceRow]


@documented
class ObjectivesResult(TypedDict):
    """Why one item's responses scored as they did."""

    responses: list[ExplainedResponse]
    gating_entropy: float | None
    """Entropy of the prompt's gating coefficients in nats, 0 to ln K."""
    differences: list[Difference] | None
    """The best response against each other one; contributions' differences sum to the score's."""
    truncated: bool


@documented
class ObjectivesAnswer(Answer):
    """The answer of `POST /objectives`."""

    results: list[ObjectivesResult | ErrorResult]
    preferences: NotRequired[list[dict[str, float]]]
    """The unit vectors used."""


@documented
class HeadAnswer(TypedDict):
    """One head's classification of one response."""

    probabilities: list[float]
    intensity: int
    """The most probable level, from 1."""
    expected: float
    """The mean level."""


@documented
class ClassifiedResponse(TypedDict):
    """One response's intensities."""

    heads: dict[str, HeadAnswer]
    reward: float | None
    """The mapped reward (MOSLIM, Eq. 11); null without targets."""


@documented
class MoslimResult(TypedDict):
    """The intensities of one item's responses."""

    responses: list[ClassifiedResponse]
    targets: dict[str, int] | None
    truncated: bool


@documented
class MoslimAnswer(Answer):
    """The answer of `POST /moslim-classify`."""

    results: list[MoslimResult | ErrorResult]


@documented
class TokenizedResponse(TypedDict):
    """One response as it would be scored."""

    text: str
    """The rendered conversation."""
    token_ids: list[int]
    prompt_tokens: int
    """How many of the ids are the prompt's; later ones are the response's."""
    gating_index: int
    """The id whose hidden state is the input of the gating network."""


@documented
class TokenizeResult(TypedDict):
    """One item as it would be scored."""

    responses: list[TokenizedResponse]
    truncated: bool


@documented
class TokenizeAnswer(TypedDict):
    """The answer of `POST /tokenize`."""

    results: list[TokenizeResult | ErrorResult]
    model: ModelAnswer
