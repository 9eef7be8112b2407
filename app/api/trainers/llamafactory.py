"""LlamaFactory's reward model server: texts in, scores out. The wire format, and nothing else.

Its PPO trainer (`reward_model_type: api`) posts once, waits without end and looks at no status: an error has no
`scores`, which stops it.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from app.api.answers import documented
from app.api.schemas import Text
from app.api.trainers.call import Stamp
from app.api.trainers.conversations import PolicyConversation
from app.api.trainers.foreign import ForeignBody, ScoredWhole
from app.api.trainers.rewards import Rewarded


class ScoreEvaluationBody(ForeignBody):
    """A request of LlamaFactory."""

    messages: Annotated[list[Text], Field(min_length=1, fail_fast=True)]
    """Whole conversations in the policy's chat template, special tokens and all."""
    max_length: ScoredWhole = None
    """Texts are scored whole."""

    def conversations(self, _: str | None, /) -> list[PolicyConversation]:
        return [PolicyConversation(f"messages[{index}]", text) for index, text in enumerate(self.messages)]

    def answer(self, rewarded: Sequence[Rewarded], stamp: Stamp, /) -> "ScoreEvaluationAnswer":
        return {
            "id": f"scoreeval-{stamp.request_id}",
            "object": "score.evaluation",
            "model": stamp.model,
            "scores": [one.reward for one in rewarded],
        }


@documented
class ScoreEvaluationAnswer(TypedDict):
    """What LlamaFactory reads: `scores`, as long as `messages`."""

    id: str
    object: Literal["score.evaluation"]
    model: str
    scores: list[float]
