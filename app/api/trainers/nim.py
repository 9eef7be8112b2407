"""Reward models as NVIDIA's NIM serves them behind OpenAI's chat completions. The wire format, and nothing else.

NeMo-Curator and CAMEL read `{token: logprob}` off the log probabilities; others take what follows the last colon of
the message, so that it holds the reward and nothing after it.
"""

from collections.abc import Sequence
from typing import Any, Literal

from typing_extensions import TypedDict

from app.api.answers import documented
from app.api.trainers.call import Stamp
from app.api.trainers.conversations import PlainConversation
from app.api.trainers.foreign import ChatTurns, ForeignBody, NoTools, OwnTemplate, TokenUsage, spoken, usage_of
from app.api.trainers.rewards import Rewarded

REWARD = "reward"


class ChatBody(ForeignBody):
    """A request of NIM's reward clients, and of OpenAI's SDKs."""

    messages: ChatTurns
    """The conversation; the last message is the assistant's, which is rewarded."""
    n: Literal[1] | None = None
    """There is one answer."""
    stream: Literal[False] | None = None
    """The answer comes at once."""
    tools: NoTools = None
    """None may be given."""
    chat_template: OwnTemplate = None
    """The reward model's own is used."""
    add_generation_prompt: OwnTemplate = None
    """The response is there."""
    continue_final_message: OwnTemplate = None
    """The response is closed."""

    def conversations(self, _: str | None, /) -> list[PlainConversation]:
        return [spoken(self.messages)]

    def answer(self, rewarded: Sequence[Rewarded], stamp: Stamp, /) -> "ChatAnswer":
        (one,) = rewarded
        # Clients make a dict of these, so an objective of the name `reward` may not hide the reward that was asked for.
        values = {REWARD: one.reward} | {name: value for name, value in one.logs.items() if name != REWARD}
        tokens: list[RewardToken] = [
            {"token": name, "logprob": value, "top_logprobs": []} for name, value in values.items()
        ]
        choice: ChatChoice = {
            "index": 0,
            "message": {"role": "assistant", "content": f"{REWARD}:{one.reward!r}"},
            "logprobs": {"content": tokens},
            "finish_reason": "stop",
        }
        return {
            "id": f"chatcmpl-{stamp.request_id}",
            "object": "chat.completion",
            "created": stamp.created,
            "model": stamp.model,
            "choices": [choice],
            "usage": usage_of(rewarded),
        }


@documented
class RewardToken(TypedDict):
    """One value by its name; no log probability in truth."""

    token: str
    """`reward`, then the objectives; with `targets`, then `intensity/<head>`."""
    logprob: float
    """The value, raw."""
    top_logprobs: list[Any]
    """Empty."""


@documented
class RewardTokens(TypedDict):
    """Where clients of reward models look for the values."""

    content: list[RewardToken]


@documented
class ChatMessage(TypedDict):
    """The reward in words."""

    role: Literal["assistant"]
    content: str
    """`reward:` and the number."""


@documented
class ChatChoice(TypedDict):
    """The one choice."""

    index: int
    message: ChatMessage
    logprobs: RewardTokens
    finish_reason: Literal["stop"]


@documented
class ChatAnswer(TypedDict):
    """A chat completion that says the reward of its last message."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
