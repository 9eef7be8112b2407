"""What a trainer sends, read and scored: texts of a policy's template in, one reward per conversation out.

All trainer routes go through here, whatever their wire format. One conversation at fault fails the request, since
these formats have no place for an error of one: a trainer would take whatever stood there for a reward.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeAlias, TypeVar

from fastapi import Request

from app.api.dependencies import built, unless_gone
from app.api.intensities import Aimed
from app.api.state import ServedModel
from app.api.trainers.options import TrainerOptions
from app.api.trainers.rewards import Rewarded, RewardRule, reward_rule
from app.domain import Item, Message
from app.errors import ArmoserveError, MalformedBody, Overloaded, TrainerOverloaded
from app.serving.service import ItemReadouts, ScoredItems
from app.text.foreign_templates import Oddity, ReadConversation, read_conversation, without_closing
from app.text.turn_formats import KNOWN_FORMATS, RAW, TurnFormat

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

READ_IN_THREAD_CHARACTERS = 32 * 1024
"""More text, which may be a thousand short ones, would hold the event loop for longer than a few milliseconds."""


@dataclass(frozen=True, slots=True)
class PolicyConversation:
    """One conversation as a trainer sends it.

    `text` is all of it in the policy's template, and `prompt` what it begins with, where that is known. Where
    `prompt` is turns, no template rendered them, and `text` is the response alone.
    """

    place: str
    """Where in the body it stands, for errors; empty where it is the body."""
    text: str
    prompt: str | tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class PlainConversation:
    """One conversation that no template has rendered: an item with one response, of which every character is text."""

    place: str
    item: Item


Conversation: TypeAlias = PolicyConversation | PlainConversation
ReadAndAimed: TypeAlias = tuple[Aimed, tuple[Oddity, ...]]


async def rewards_for(
    request: Request,
    model: ServedModel,
    options: TrainerOptions,
    conversations: Sequence[Conversation],
    deadline: float | None,
    waits_until: float,
) -> list[Rewarded]:
    """Return the reward of each conversation, in order; both times are in monotonic seconds.

    Raises:
        TrainerOverloaded: too much was waiting until `waits_until`, or would have made it wait for longer.
        ArmoserveError: what is wrong with the options, with the first conversation at fault (and its place), or with
            the service.
    """
    rule = reward_rule(options, model)
    if not conversations:
        return []
    read = await _read_all(conversations, _format_of(conversations, options, model), rule)
    for oddity, number in Counter(oddity for _, oddities in read for oddity in oddities).items():
        model.metrics.template_warnings.labels(oddity).inc(number)
    scored = await unless_gone(request, _score(model, [item for (item, _), _ in read], deadline, waits_until))

    def reward_all() -> list[Rewarded]:
        return [
            _at(conversation.place, _rewarded, result, one, rule)
            for conversation, result, one in zip(conversations, scored.results, read, strict=True)
        ]

    return await built(reward_all, len(conversations))


def _format_of(conversations: Sequence[Conversation], options: TrainerOptions, model: ServedModel) -> TurnFormat:
    """Return the format of the texts; not every model's own can be read, which matters only where there are some."""
    if options.template is not None:
        return KNOWN_FORMATS[options.template]
    return model.own_format() if any(isinstance(one, PolicyConversation) for one in conversations) else RAW


async def _read_all(conversations: Sequence[Conversation], turns: TurnFormat, rule: RewardRule) -> list[ReadAndAimed]:
    def read() -> list[ReadAndAimed]:
        return [_at(one.place, _read, one, turns, rule) for one in conversations]

    texts = [one.text for one in conversations if isinstance(one, PolicyConversation)]
    is_long = sum(map(len, texts)) > READ_IN_THREAD_CHARACTERS
    return await asyncio.to_thread(read) if is_long else read()


def _read(conversation: Conversation, turns: TurnFormat, rule: RewardRule) -> ReadAndAimed:
    if isinstance(conversation, PlainConversation):
        return rule.aim(conversation.item), ()
    if isinstance(conversation.prompt, tuple):
        read = ReadConversation(conversation.prompt, without_closing(conversation.text, turns)[0])
    else:
        read = read_conversation(conversation.text, turns, conversation.prompt)
    return rule.aim(Item(read.prompt, (read.response,))), read.oddities


async def _score(model: ServedModel, items: Sequence[Item], deadline: float | None, waits_until: float) -> ScoredItems:
    try:
        return await model.service.score(items, deadline=deadline, waits_until=waits_until, encode=model.encode_rollout)
    except Overloaded as error:
        raise TrainerOverloaded(str(error), error.retry_after_seconds) from error


def _rewarded(result: ItemReadouts | ArmoserveError, read: ReadAndAimed, rule: RewardRule) -> Rewarded:
    if isinstance(result, ArmoserveError):
        raise result
    (_, levels), oddities = read
    return replace(rule.apply(result, levels), oddities=oddities)


def _at(
    place: str, work: Callable[Arguments, Result], *arguments: Arguments.args, **options: Arguments.kwargs
) -> Result:
    """Do the work for one conversation; its error says which one was at fault."""
    try:
        return work(*arguments, **options)
    except ArmoserveError as error:
        raise (_placed(error, place) if place else error) from error.__cause__


def _placed(error: ArmoserveError, place: str) -> ArmoserveError:
    message = f"{place}: {error}"
    return MalformedBody(message, ((place, str(error)),)) if type(error) is MalformedBody else type(error)(message)
