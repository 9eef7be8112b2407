"""vLLM's pooling routes, which clients of vLLM and SGLang and verl call. The wire formats, and nothing else.

Texts are in the policy's template, special tokens and all; what those servers add to a text is not added here. Values
are raw: a softmax over one class, which those servers take unless told otherwise, would make every reward 1.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, Self

import numpy as np
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from typing_extensions import TypedDict

from app.api.answers import documented
from app.api.schemas import Text, form_fault
from app.api.trainers.call import Stamp
from app.api.trainers.conversations import Conversation, PolicyConversation
from app.api.trainers.foreign import (
    ChatTurns,
    ForeignBody,
    OwnTemplate,
    RawValues,
    ScoredWhole,
    TokenUsage,
    spoken,
    usage_of,
)
from app.api.trainers.rewards import Rewarded
from app.api.views import floats

RAW_VALUES = "values are raw, whatever {field} says: no activation is applied"


def _is_text(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(part, int | list) for part in value):
        raise form_fault("token ids are not taken, since no turns can be read off them: send the text")
    return value


def _kind_of_input(value: object) -> str:
    return "(text)" if isinstance(value, str) else "(texts)"


Texts = Annotated[list[Text], Field(min_length=1, fail_fast=True)]
Input = Annotated[
    Annotated[Text, Tag("(text)")] | Annotated[Texts, Tag("(texts)")],
    Discriminator(_kind_of_input),
]
EncodingFormat = Literal["float", "base64"]


class VllmBody(ForeignBody):
    """What the bodies of the three routes share."""

    input: Annotated[Input | None, BeforeValidator(_is_text)] = None
    """One conversation or several, as texts in the policy's chat template."""
    messages: ChatTurns | None = None
    """One conversation in place of `input`; its last message is the assistant's, which is rewarded."""
    truncate_prompt_tokens: ScoredWhole = None
    """Texts are scored whole."""
    chat_template: OwnTemplate = None
    """The reward model's own is used."""
    add_generation_prompt: OwnTemplate = None
    """The response is there."""
    continue_final_message: OwnTemplate = None
    """The response is closed."""

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if (self.input is None) == (self.messages is None):
            has = "neither" if self.input is None else "both"
            raise form_fault(f"a body has input or messages; this one has {has}")
        return self

    def conversations(self, _: str | None, /) -> Sequence[Conversation]:
        if self.messages is not None:
            return [spoken(self.messages)]
        if isinstance(self.input, str):
            return [PolicyConversation("input", self.input)]
        return [PolicyConversation(f"input[{index}]", text) for index, text in enumerate(self.input or ())]


class ActivatedBody(VllmBody):
    """A body that may ask for an activation."""

    use_activation: bool | None = None
    """Values are raw; where this is true, `warnings` says so."""
    activation: bool | None = None
    """Its older name."""

    def warned(self) -> "Warned":
        asked = [field for field in ("use_activation", "activation") if getattr(self, field)]
        return {"warnings": [RAW_VALUES.format(field=field) for field in asked]} if asked else {}


class ClassifyBody(ActivatedBody):
    """A request to classify, with the reward as the one class."""

    def answer(self, rewarded: Sequence[Rewarded], stamp: Stamp, /) -> "ClassifyAnswer":
        data: list[Classified] = [
            {"index": index, "label": "reward", "probs": [one.reward], "num_classes": 1}
            for index, one in enumerate(rewarded)
        ]
        return {**_frame("classify", rewarded, stamp), "data": data, **self.warned()}


class PoolingBody(ActivatedBody):
    """A request to pool: the reward, then every objective."""

    task: Literal["classify"] | None = None
    """One list of values per conversation is what there is."""
    normalize: RawValues = None
    """Values are raw."""
    encoding_format: EncodingFormat | None = None
    """`base64`: little-endian float32."""

    def answer(self, rewarded: Sequence[Rewarded], stamp: Stamp, /) -> "PoolingAnswer":
        values = [_encoded([one.reward, *one.objectives.values()], self.encoding_format) for one in rewarded]
        data: list[Pooled] = [{"index": index, "object": "pooling", "data": one} for index, one in enumerate(values)]
        return {**_frame("pool", rewarded, stamp), "data": data, **self.warned()}


class EmbeddingsBody(VllmBody):
    """A request to embed, as OpenAI has it: the reward is the one element."""

    dimensions: Literal[1] | None = None
    """There is one."""
    normalize: RawValues = None
    """Values are raw."""
    encoding_format: EncodingFormat | None = None
    """`base64`, which OpenAI's SDKs ask for: little-endian float32."""

    def answer(self, rewarded: Sequence[Rewarded], stamp: Stamp, /) -> "EmbeddingsAnswer":
        values = [_encoded([one.reward], self.encoding_format) for one in rewarded]
        data: list[Embedded] = [
            {"index": index, "object": "embedding", "embedding": one} for index, one in enumerate(values)
        ]
        return {**_frame("embd", rewarded, stamp), "data": data}


@documented
class Warned(TypedDict):
    """What is not as the request has it."""

    warnings: NotRequired[list[str]]


@documented
class Listed(TypedDict):
    """What the three answers share."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    usage: TokenUsage


@documented
class Classified(TypedDict):
    """One conversation's reward."""

    index: int
    label: str
    probs: list[float]
    """The reward alone: raw, and no probability."""
    num_classes: Literal[1]


@documented
class ClassifyAnswer(Listed, Warned):
    """The answer of `POST /classify`."""

    data: list[Classified]


@documented
class Pooled(TypedDict):
    """One conversation's values."""

    index: int
    object: Literal["pooling"]
    data: list[float] | str
    """The reward, then the objectives' rewards in the order of `GET /info`."""


@documented
class PoolingAnswer(Listed, Warned):
    """The answer of `POST /pooling`."""

    data: list[Pooled]


@documented
class Embedded(TypedDict):
    """One conversation's reward."""

    index: int
    object: Literal["embedding"]
    embedding: list[float] | str
    """The reward alone, not normalised."""


@documented
class EmbeddingsAnswer(Listed):
    """The answer of `POST /v1/embeddings`."""

    data: list[Embedded]


def _frame(kind: str, rewarded: Sequence[Rewarded], stamp: Stamp) -> Listed:
    return {
        "id": f"{kind}-{stamp.request_id}",
        "object": "list",
        "created": stamp.created,
        "model": stamp.model,
        "usage": usage_of(rewarded),
    }


def _encoded(values: Sequence[float], encoding: EncodingFormat | None) -> list[float] | str:
    """Return values as they were asked for.

    Raises:
        NonFiniteReadout: a value does not fit into a float32.
    """
    if encoding != "base64":
        return list(values)
    with np.errstate(over="ignore"):
        written = np.asarray(values, dtype="<f4")
    floats(written)
    return base64.b64encode(written.tobytes()).decode("ascii")
