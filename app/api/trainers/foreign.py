"""What bodies and answers of other services' APIs share. Their clients send many fields, and new ones every year.

Fields that no reward depends on are passed over. Those that one would depend on are refused where they ask for what
is not done here: a caller whose text is not cut, say, must not believe that it was.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from app.api.answers import documented
from app.api.schemas import Text, conversation_item, form_fault
from app.api.trainers.conversations import PlainConversation
from app.api.trainers.rewards import Rewarded
from app.domain import Message, Role


def _refuse(words: str) -> Callable[[Any], None]:
    def refuse(value: Any) -> None:
        if value is not None and value is not False:
            raise form_fault(f"{words}: leave it out")

    return refuse


ScoredWhole = Annotated[Any, AfterValidator(_refuse("texts are never cut here, and one that is too long is an error"))]
OwnTemplate = Annotated[Any, AfterValidator(_refuse("messages are rendered by the reward model's own template"))]
RawValues = Annotated[Any, AfterValidator(_refuse("values are raw"))]
NoTools = Annotated[Any, AfterValidator(_refuse("the reward model knows no tools"))]


class ForeignBody(BaseModel):
    """A request as another service takes it: nothing is converted."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, use_attribute_docstrings=True)

    model: Any = None
    """Not read: one model is served, and the answer names it."""


class ChatTurn(BaseModel):
    """One turn, as OpenAI's SDKs send it."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, use_attribute_docstrings=True)

    role: Role
    content: Text
    """Text; parts are not taken."""
    tool_calls: NoTools = None
    """None may be given."""


ChatTurns = Annotated[list[ChatTurn], Field(fail_fast=True)]


def spoken(turns: Sequence[ChatTurn]) -> PlainConversation:
    """Return the conversation of these turns, whose last one is the response.

    Raises:
        InvalidConversation: the turns are out of order, or the last is not the assistant's.
    """
    return PlainConversation("", conversation_item([Message(turn.role, turn.content) for turn in turns]))


@documented
class TokenUsage(TypedDict):
    """Tokens of all conversations, prompts and responses, as if nothing were shared."""

    prompt_tokens: int
    completion_tokens: int
    """Nothing is generated: 0."""
    total_tokens: int


def usage_of(rewarded: Sequence[Rewarded]) -> TokenUsage:
    number = sum(one.num_tokens for one in rewarded)
    return {"prompt_tokens": number, "completion_tokens": 0, "total_tokens": number}
