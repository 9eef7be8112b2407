"""What callers send: items in their three forms and the options of each route. Nothing unknown, nothing converted.

What a body *says* is checked here; whether a conversation makes sense is for `app.domain.Item`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.domain import Item, Message, Role, Truncation, is_unicode
from app.errors import ArmoserveError, InvalidConversation
from app.serving.jobs import Priority

MOST_DIRECTIONS = 256
LARGEST_WEIGHT = 1e100
"""Far beyond any use, and no product of two with a reward overflows."""
FORMS = "an item is {prompt, responses}, {prompt, response} or {messages}"
BODY_FORMS = f"a body has items or is one item; {FORMS}"
ITEM_FIELDS = ("prompt", "responses", "response", "messages")
PAIR_FIELDS = frozenset({"text_1", "text_2", "data_1", "data_2", "queries", "documents"})
"""What vLLM's own /score takes: pairs of texts."""


def _without_lone_surrogates(text: str) -> str:
    """Refuse half of a pair, which JSON can escape and no tokenizer can read."""
    if not is_unicode(text):
        raise form_fault("the text holds a lone surrogate, which is no character")
    return text


Text = Annotated[str, AfterValidator(_without_lone_surrogates)]
Weight = Annotated[float, Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT, allow_inf_nan=False)]
Direction = dict[str, Weight]


class StrictModel(BaseModel):
    """A part of a body: unknown fields are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class MessageBody(StrictModel):
    """One turn."""

    role: Role
    content: Text

    def to_message(self) -> Message:
        return Message(self.role, self.content)


Turns = Annotated[list[MessageBody], Field(fail_fast=True)]


def _kind_of_prompt(value: object) -> str:
    return "(text)" if isinstance(value, str) else "(turns)"


Prompt = Annotated[Annotated[Text, Tag("(text)")] | Annotated[Turns, Tag("(turns)")], Discriminator(_kind_of_prompt)]


class ItemFields(StrictModel):
    """One prompt with one or more responses."""

    prompt: Prompt | None = None
    """The user's text, or turns that end with the user's."""
    responses: Annotated[list[Text], Field(fail_fast=True)] | None = None
    """The responses to rate."""
    response: Text | None = None
    """The one response to rate, in place of `responses`."""
    messages: Turns | None = None
    """A whole conversation in place of `prompt` and `response`; its last message is the response."""

    def given_fields(self) -> list[str]:
        return [name for name in ITEM_FIELDS if getattr(self, name) is not None]

    def check_form(self, forms: str = FORMS) -> None:
        given = self.given_fields()
        if given not in (["prompt", "responses"], ["prompt", "response"], ["messages"]):
            raise form_fault(f"{forms}; this one has {' and '.join(given) or 'none of these'}")

    def to_item(self) -> Item:
        """Return the item as the core knows it.

        Raises:
            InvalidConversation: the turns are out of order, or there is no response.
        """
        if self.messages is not None:
            return conversation_item([message.to_message() for message in self.messages])
        responses = (self.response,) if self.response is not None else tuple(self.responses or ())
        if isinstance(self.prompt, str):
            return Item((Message("user", self.prompt),), responses)
        return Item(tuple(message.to_message() for message in self.prompt or ()), responses)


class ItemBody(ItemFields):
    """One item of `items`."""

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        self.check_form()
        return self


class TruncationOption(StrictModel):
    """The option that every route takes."""

    truncate: Truncation = "never"
    """`never`: an item over the limit is an error. `prompt_left`: leading turns are dropped until it fits."""


class ScoringOptions(TruncationOption):
    """The options of every route that scores."""

    composites: dict[str, Direction] = {}
    """Names usable in a direction beside the objectives: `{name: {objective: weight}}`."""
    priority: Priority = "interactive"
    """`bulk` fills what `interactive` leaves."""


class ScoreOptions(ScoringOptions):
    """The options of `/score`."""

    preferences: Annotated[list[Direction], Field(max_length=MOST_DIRECTIONS)] | None = None
    """Directions over objectives and composites; each is normalised to length 1 and ranks the responses its own way."""


class ItemsBody(ItemFields):
    """Either `items`, or one item's own fields."""

    items: Annotated[list[ItemBody], Field(fail_fast=True)] | None = None
    """Items to rate; an item at fault is an error among the results. One item's fields may stand here instead."""

    @model_validator(mode="before")
    @classmethod
    def _is_not_a_pair_of_texts(cls, content: Any) -> Any:
        if isinstance(content, dict) and not PAIR_FIELDS.isdisjoint(content):
            names = " and ".join(sorted(PAIR_FIELDS.intersection(content)))
            raise form_fault(
                f"{names}: these are vLLM's pairs of texts, which /rerank takes (query, documents); "
                f"here responses to a prompt are rated: {FORMS}"
            )
        return content

    @model_validator(mode="after")
    def _has_items_or_is_one(self) -> Self:
        if self.items is None:
            self.check_form(BODY_FORMS)
        elif given := self.given_fields():
            raise form_fault(f"{given[0]} stands beside items; an item's fields belong inside items, or items must go")
        return self

    @property
    def is_single(self) -> bool:
        """Whether the body is one item itself, whose error is the request's own."""
        return self.items is None

    def all_items(self) -> Sequence[ItemFields]:
        return [self] if self.items is None else self.items


class ScoreBody(ItemsBody, ScoreOptions):
    """The body of `POST /score`."""


def _at_most_one(directions: list[Direction]) -> list[Direction]:
    if len(directions) > 1:
        raise form_fault("/objectives explains one direction at a time")
    return directions


class ObjectivesBody(ScoreBody):
    """The body of `POST /objectives`."""

    preferences: Annotated[list[Direction], AfterValidator(_at_most_one)] | None = None
    """At most one direction over objectives and composites, normalised to length 1: it is explained in place of the
    weights' own score."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Keep the objectives with the k largest contributions; the rest becomes one row, `other`."""


class TokenizeBody(ItemsBody, TruncationOption):
    """The body of `POST /tokenize`."""

    targets: Literal["prefix"] | None = None
    """`prefix`: strip an intensity prefix from each prompt, as /moslim-classify does with the same option."""


def _kind_of_targets(value: object) -> str:
    return "(prefix)" if isinstance(value, str) else "(levels)"


def _kind_of_level(value: object) -> str | None:
    return "(max)" if value == "max" else "(number)" if type(value) is int else None


TargetLevel = Annotated[
    Annotated[int, Tag("(number)")] | Annotated[Literal["max"], Tag("(max)")],
    Discriminator(
        _kind_of_level,
        custom_error_type="level",
        custom_error_message="a level is a whole number from 1, or 'max'",
    ),
]
Levels = dict[str, TargetLevel]
Targets = Annotated[
    Annotated[Levels, Tag("(levels)")] | Annotated[Literal["prefix"], Tag("(prefix)")], Discriminator(_kind_of_targets)
]


class TargetedItemBody(ItemBody):
    """One item of `items`, with targets of its own."""

    targets: Targets | None = None
    """Targets of this item, in place of those of the request."""


class MoslimBody(ItemsBody, ScoringOptions):
    """The body of `POST /moslim-classify`."""

    items: Annotated[list[TargetedItemBody], Field(fail_fast=True)] | None = None  # type: ignore[assignment]
    """Items to classify; an item at fault is an error among the results. One item's fields may stand here instead."""
    targets: Targets | None = None
    """Levels to reward, `{head: level}`, from 1 or `max`; or `prefix`: read them from tags like `<helpfulness 5>` that
    the system turn or the last user turn begins with. A prompt without such tags names no target and has no reward."""


def items_of(body: ItemsBody) -> list[Item | ArmoserveError]:
    """Return the items of a body; one that makes no conversation becomes its error."""
    return [_item_or_error(fields) for fields in body.all_items()]


def _item_or_error(fields: ItemFields) -> Item | ArmoserveError:
    try:
        return fields.to_item()
    except ArmoserveError as error:
        return error


def conversation_item(messages: Sequence[Message]) -> Item:
    """Return a whole conversation as the item whose response is its last message.

    Raises:
        InvalidConversation: the turns are out of order, or the last is not the assistant's.
    """
    if not messages or messages[-1].role != "assistant":
        raise InvalidConversation("the last message must be the assistant's: it is the response to rate")
    return Item(tuple(messages[:-1]), (messages[-1].content,))


def form_fault(message: str) -> PydanticCustomError:
    # The message is data, not a template: braces in it mean themselves.
    return PydanticCustomError("form", "{message}", {"message": message})
