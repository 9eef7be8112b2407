"""slime's remote reward model: one prompt and one response in, a score out. The wire format, and nothing else.

Its prompt is text in the policy's template, or the turns themselves. `--reward-key score` reads the answer.
"""

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict

from app.api.answers import documented
from app.api.schemas import Prompt, StrictModel, Text
from app.api.trainers.call import Stamp
from app.api.trainers.conversations import PolicyConversation
from app.api.trainers.rewards import Rewarded


class SlimeBody(StrictModel):
    """A request of slime."""

    prompt: Prompt
    """The prompt in the policy's chat template, or the turns, which no template has rendered."""
    response: Text
    """What the policy wrote."""
    label: Any = None
    """The data set's label; it is not read."""

    def conversations(self, _: str | None, /) -> list[PolicyConversation]:
        if isinstance(self.prompt, str):
            return [PolicyConversation("", self.prompt + self.response, self.prompt)]
        return [PolicyConversation("", self.response, tuple(turn.to_message() for turn in self.prompt))]

    def answer(self, rewarded: Sequence[Rewarded], _: Stamp, /) -> "SlimeAnswer":
        (one,) = rewarded
        return {"score": one.reward, "rewards": [one.reward], "objectives": one.logs}


@documented
class SlimeAnswer(TypedDict):
    """What slime reads with `--reward-key score`."""

    score: float
    rewards: list[float]
    """The same number."""
    objectives: dict[str, float]
    """Per objective its raw reward; with `targets`, also the expected level of each head under `intensity/<head>`."""
