"""OpenRLHF's remote reward model: lists of texts in, lists of numbers out. The wire format, and nothing else.

Its client posts one text at a time, and empty lists to all but the first of several servers: those are answered, with
empty lists. Every value of `extra_logs` is turned into a tensor, so it holds lists of numbers only.
"""

from collections.abc import Sequence
from typing import Any, Self

from pydantic import model_validator
from typing_extensions import TypedDict

from app.api.answers import documented
from app.api.schemas import StrictModel, Text, form_fault
from app.api.trainers.call import Stamp
from app.api.trainers.conversations import PolicyConversation
from app.api.trainers.rewards import Rewarded


class OpenRlhfBody(StrictModel):
    """A request of OpenRLHF."""

    query: list[Text]
    """Whole conversations in the policy's chat template, special tokens and all."""
    prompts: list[Text] | None = None
    """What each query begins with: where a response begins need not be guessed then. May be empty."""
    labels: list[Any] | None = None
    """The data set's labels; they are not read."""

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        for name, values in (("prompts", self.prompts), ("labels", self.labels)):
            if values and len(values) != len(self.query):
                raise form_fault(f"query holds {len(self.query)} texts and {name} {len(values)}; they must be as many")
        return self

    def conversations(self, _: str | None, /) -> list[PolicyConversation]:
        prompts: Sequence[str | None] = self.prompts or [None] * len(self.query)
        return [
            PolicyConversation(f"query[{index}]", text, prompt)
            for index, (text, prompt) in enumerate(zip(self.query, prompts, strict=True))
        ]

    def answer(self, rewarded: Sequence[Rewarded], _: Stamp, /) -> "OpenRlhfAnswer":
        rewards = [one.reward for one in rewarded]
        each = [one.logs for one in rewarded]
        logs = {name: [one[name] for one in each] for name in (each[0] if each else {})}
        return {"rewards": rewards, "scores": list(rewards), "extra_logs": logs}


@documented
class OpenRlhfAnswer(TypedDict):
    """What OpenRLHF reads: everything as long as `query`."""

    rewards: list[float]
    scores: list[float]
    """The same numbers, for dynamic filtering."""
    extra_logs: dict[str, list[float]]
    """Per objective its raw rewards; with `targets`, also the expected level of each head under `intensity/<head>`."""
