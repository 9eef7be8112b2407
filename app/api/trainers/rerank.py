"""Rerankers as Cohere, Jina and vLLM have them: a prompt and its responses in, the best first. The wire format alone.

Their query is what a user wrote and their documents are what might be answered: plain text, unless the URL names a
template that the query was rendered in.
"""

from collections.abc import Sequence
from typing import Annotated, NotRequired

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from typing_extensions import TypedDict

from app.api.answers import documented
from app.api.schemas import Prompt, Text
from app.api.trainers.call import Stamp
from app.api.trainers.conversations import Conversation, PlainConversation, PolicyConversation
from app.api.trainers.foreign import ForeignBody, ScoredWhole, TokenUsage, usage_of
from app.api.trainers.rewards import Rewarded
from app.domain import Item, Message


class TextDocument(BaseModel):
    """A document as an object."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: Text


def _kind_of_document(value: object) -> str:
    return "(object)" if isinstance(value, dict | TextDocument) else "(text)"


Document = Annotated[
    Annotated[Text, Tag("(text)")] | Annotated[TextDocument, Tag("(object)")], Discriminator(_kind_of_document)
]


class RerankBody(ForeignBody):
    """A request of rerank clients."""

    query: Prompt
    """The prompt: what the user wrote, or turns that end with the user's; with `?template`, the rendered prompt."""
    documents: Annotated[list[Document], Field(min_length=1, fail_fast=True)]
    """The responses, as texts or as `{"text": …}`."""
    top_n: Annotated[int, Field(ge=0)] | None = None
    """How many of the best come back; all for 0, or without it."""
    return_documents: bool | None = None
    """`false` leaves the documents out of the answer."""
    truncate_prompt_tokens: ScoredWhole = None
    """Texts are scored whole."""

    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]

    def conversations(self, template: str | None, /) -> Sequence[Conversation]:
        places = [(f"documents[{index}]", text) for index, text in enumerate(self.texts())]
        if not isinstance(self.query, str):
            turns = tuple(turn.to_message() for turn in self.query)
            return [PlainConversation(place, Item(turns, (text,))) for place, text in places]
        if template is None:
            asked = (Message("user", self.query),)
            return [PlainConversation(place, Item(asked, (text,))) for place, text in places]
        return [PolicyConversation(place, self.query + text, self.query) for place, text in places]

    def answer(self, rewarded: Sequence[Rewarded], stamp: Stamp, /) -> "RerankAnswer":
        texts = self.texts()
        best_first = sorted(range(len(rewarded)), key=lambda index: rewarded[index].reward, reverse=True)
        results: list[RankedDocument] = []
        for index in best_first[: self.top_n or len(rewarded)]:
            ranked: RankedDocument = {"index": index, "relevance_score": rewarded[index].reward}
            results.append(ranked if self.return_documents is False else {**ranked, "document": {"text": texts[index]}})
        return {
            "id": f"rerank-{stamp.request_id}",
            "model": stamp.model,
            "results": results,
            "usage": usage_of(rewarded),
        }


@documented
class DocumentText(TypedDict):
    """A document that was sent."""

    text: str


@documented
class RankedDocument(TypedDict):
    """One response and its reward."""

    index: int
    """Its place in `documents`."""
    relevance_score: float
    """The reward: raw, of any sign, and comparable only beside the others."""
    document: NotRequired[DocumentText]


@documented
class RerankAnswer(TypedDict):
    """The responses, the best first; equal ones in the order they came in."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: TokenUsage
