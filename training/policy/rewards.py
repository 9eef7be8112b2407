"""The service as functions of prompts and responses: what every loop and every foreign trainer is given as its reward.

A response that the service could not score has the reward None, never a number; whatever else goes wrong is raised by
`app.client`. Every response is an item of its own, so that one that is too long fails alone; the service shares the
prompts that stand side by side. Knows no trainer, and imports neither torch nor transformers.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.client import AsyncRewardClient, ItemError, MoslimResult, RewardClient, ScoreResult
from app.client_answers import Field
from app.domain import IntensityHead, Item, Message
from app.errors import InvalidConversation
from app.reward_mapping import head_named
from app.text.intensity_prefix import TAG
from training.errors import LeakedPrefix

Prompt: TypeAlias = tuple[Message, ...]
Weights: TypeAlias = Mapping[str, float]
RewardFunction: TypeAlias = Callable[[Sequence[Prompt], Sequence[str]], list[float | None]]
AsyncRewardFunction: TypeAlias = Callable[[Sequence[Prompt], Sequence[str]], Awaitable[list[float | None]]]
TargetsOf: TypeAlias = Callable[[Prompt], tuple[Prompt, dict[str, int]]]
"""From a policy's prompt to what the reward model sees of it, and the level that it asks of each head."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One reward per response, and what a log should show of them: means over the responses that were scored.

    A mean that is over nothing is left out. `failed` is the share of responses without a reward.
    """

    rewards: list[float | None]
    means: Mapping[str, float]


class MappedReward:
    """MOSLIM's mapped reward (Eq. 11) for the intensities that each prompt asks for.

    The prefix that tells the policy what is wanted is stripped by `targets_of`, such as
    `lambda prompt: split_intensity_prefix(prompt, heads)`; targets are sent beside the prompt. Which heads there are
    is asked of the service, once, unless it is given.

    Raises, when called:
        LeakedPrefix: a stripped prompt still begins with a tag that names a head.
        InvalidConversation: a prompt asks for no intensity, so that there is no reward.
        ClientError: as the client's methods say.
    """

    def __init__(self, client: RewardClient, targets_of: TargetsOf, heads: tuple[IntensityHead, ...] = ()) -> None:
        self._client = client
        self._targets_of = targets_of
        self._heads = heads

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        return self.measure(prompts, responses).rewards

    def measure(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
        """Return the rewards, and the mean level of each head."""
        self._heads = self._heads or served_heads(self._client.info())
        items, targets = _aimed(prompts, responses, self._targets_of, self._heads)
        return _mapped(self._client.moslim_classify(items, targets))


class AsyncMappedReward:
    """`MappedReward`, awaited."""

    def __init__(self, client: AsyncRewardClient, targets_of: TargetsOf, heads: tuple[IntensityHead, ...] = ()) -> None:
        self._client = client
        self._targets_of = targets_of
        self._heads = heads

    async def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        return (await self.measure(prompts, responses)).rewards

    async def measure(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
        """Return the rewards, and the mean level of each head."""
        self._heads = self._heads or served_heads(await self._client.info())
        items, targets = _aimed(prompts, responses, self._targets_of, self._heads)
        return _mapped(await self._client.moslim_classify(items, targets))


class DirectionReward:
    """One fixed weighting of objectives and composites: R = v · r, ‖v‖₂ = 1 (DPA, Eq. 2; MORLHF).

    Raises, when called:
        ClientError: as the client's methods say.
    """

    def __init__(
        self, client: RewardClient, preference: Weights, composites: Mapping[str, Weights] | None = None
    ) -> None:
        self._client = client
        self._components = tuple(preference)
        self._directions = (preference, *_axes(self._components))
        self._composites = composites

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        return self.measure(prompts, responses).rewards

    def measure(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
        """Return the rewards, and the mean of each component's own reward."""
        items = _items(prompts, responses)
        return _directed(self._client.score(items, self._directions, self._composites), self._components)


class AsyncDirectionReward:
    """`DirectionReward`, awaited."""

    def __init__(
        self, client: AsyncRewardClient, preference: Weights, composites: Mapping[str, Weights] | None = None
    ) -> None:
        self._client = client
        self._components = tuple(preference)
        self._directions = (preference, *_axes(self._components))
        self._composites = composites

    async def __call__(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        return (await self.measure(prompts, responses)).rewards

    async def measure(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
        """Return the rewards, and the mean of each component's own reward."""
        items = _items(prompts, responses)
        return _directed(await self._client.score(items, self._directions, self._composites), self._components)


class ObjectiveRewards:
    """The rewards behind any number of directions, computed once: all responses to a prompt are one item.

    `components` are objectives or composites. Returns, when called, one array (n responses, components) per prompt in
    float64; None where the item failed: one response that cannot be scored fails all of its prompt, since the best
    of them would be unknown.
    """

    def __init__(
        self, client: RewardClient, components: Sequence[str], composites: Mapping[str, Weights] | None = None
    ) -> None:
        if not components:
            raise ValueError("at least one component is needed")
        self._client = client
        self._axes = _axes(components)
        self._composites = composites

    def __call__(
        self, prompts: Sequence[Prompt], responses_per_prompt: Sequence[Sequence[str]]
    ) -> list[NDArray[np.float64] | None]:
        items = [
            Item(prompt, tuple(responses)) for prompt, responses in zip(prompts, responses_per_prompt, strict=True)
        ]
        results = self._client.score(items, self._axes, self._composites)
        return [
            None if isinstance(result, ItemError) else np.array(result.preference_scores, dtype=np.float64).T
            for result in results
        ]


def served_heads(info: Mapping[str, Any]) -> tuple[IntensityHead, ...]:
    """Return the names and levels of the heads that are served, as `client.info()` tells them.

    The statistics of their reward mapping stay with the service: those here are 0 and 1, and nothing may be mapped
    with them.

    Raises:
        BadAnswer: what answered tells no heads as this service does; names the field.
    """
    told = [(head["name"].text(), head["classes"].whole_number()) for head in Field(info, "info")["heads"].list()]
    return tuple(IntensityHead(name, classes, (0.0,) * classes, (1.0,) * classes) for name, classes in told)


def check_no_prefix(prompt: Prompt, heads: Sequence[IntensityHead]) -> None:
    """Check that neither the system turn nor the last user turn begins with a tag that names a head.

    Raises:
        LeakedPrefix: one does.
    """
    for position, message in enumerate(prompt):
        is_read = message.role == "system" or position == len(prompt) - 1
        tag = TAG.match(message.content) if is_read else None
        head = head_named(tag["name"], heads) if tag else None
        if head is not None:
            raise LeakedPrefix(
                f"a {message.role} turn that is to be scored begins with a tag for {head.name}: "
                "the reward model must not see what intensities the policy was asked for"
            )


def _aimed(
    prompts: Sequence[Prompt], responses: Sequence[str], targets_of: TargetsOf, heads: Sequence[IntensityHead]
) -> tuple[list[Item], list[dict[str, int]]]:
    aimed = [targets_of(prompt) for prompt in prompts]
    for prompt, targets in aimed:
        check_no_prefix(prompt, heads)
        if not targets:
            raise InvalidConversation("a prompt asks for no intensity, so that there is no reward for it")
    return _items([prompt for prompt, _ in aimed], responses), [targets for _, targets in aimed]


def _items(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Item]:
    if len(prompts) != len(responses):
        raise ValueError(f"there are {len(responses)} responses for {len(prompts)} prompts")
    return [Item(prompt, (response,)) for prompt, response in zip(prompts, responses, strict=True)]


def _axes(components: Sequence[str]) -> tuple[Weights, ...]:
    return tuple({name: 1.0} for name in components)


def _mapped(results: Sequence[MoslimResult | ItemError]) -> Measured:
    responses = [None if isinstance(result, ItemError) else result.responses[0] for result in results]
    levels: dict[str, list[float]] = {}
    for response in responses:
        for name, head in response.heads.items() if response else ():
            levels.setdefault(name, []).append(head.expected)
    return _measured([None if response is None else response.reward for response in responses], levels)


def _directed(results: Sequence[ScoreResult | ItemError], components: Sequence[str]) -> Measured:
    scores = [None if isinstance(result, ItemError) else result.preference_scores for result in results]
    scored = [one for one in scores if one is not None]
    rewards = {name: [one[index][0] for one in scored] for index, name in enumerate(components, start=1)}
    return _measured([None if one is None else one[0][0] for one in scores], rewards)


def _measured(rewards: list[float | None], values: Mapping[str, Sequence[float]]) -> Measured:
    means = {name: float(np.mean(some)) for name, some in values.items() if some}
    failed = sum(reward is None for reward in rewards) / len(rewards) if rewards else 0.0
    return Measured(rewards, means | {"failed": failed})
