"""What is sent for a reward, what is logged of it, and that a failure is never a number."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from app.client import AsyncRewardClient, RewardClient
from app.domain import Message
from app.errors import BadAnswer, InvalidConversation, UnknownName
from app.text.intensity_prefix import split_intensity_prefix
from tests.counting_service import INFO, answer, handle
from training.errors import LeakedPrefix
from training.policy.rewards import (
    AsyncDirectionReward,
    AsyncMappedReward,
    DirectionReward,
    MappedReward,
    Measured,
    ObjectiveRewards,
    Prompt,
    served_heads,
)

HEADS = served_heads(INFO)
FAILURE = {"error": {"type": "too-many-tokens", "message": "too long"}}


def prompt(text: str, system: str | None = None) -> Prompt:
    turns = (Message("user", text),)
    return turns if system is None else (Message("system", system), *turns)


def split(prompt: Prompt) -> tuple[Prompt, dict[str, int]]:
    return split_intensity_prefix(prompt, HEADS)


class Service:
    """The counting service; responses that say `fail` fail, and what was asked is kept."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/info":
            return handle(request)
        body = json.loads(request.content)
        self.bodies.append(body)
        content = answer(body, request.url.path)
        for index, item in enumerate(body["items"]):
            if "fail" in item["responses"]:
                content["results"][index] = FAILURE
        return httpx.Response(200, json=content)

    @property
    def items(self) -> list[dict[str, Any]]:
        return [item for body in self.bodies for item in body["items"]]


@contextmanager
def client_of(service: Callable[[httpx.Request], httpx.Response]) -> Iterator[RewardClient]:
    with RewardClient("http://service", transport=httpx.MockTransport(service)) as client:
        yield client


Measure = Callable[[Service, Sequence[Prompt], Sequence[str]], Measured]


def mapped(service: Service, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
    with client_of(service) as client:
        reward = MappedReward(client, split)
        measured = reward.measure(prompts, responses)
        assert reward(prompts, responses) == measured.rewards
        return measured


def mapped_awaited(service: Service, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
    async def ask() -> Measured:
        async with AsyncRewardClient("http://service", transport=httpx.MockTransport(service)) as client:
            reward = AsyncMappedReward(client, split)
            measured = await reward.measure(prompts, responses)
            assert await reward(prompts, responses) == measured.rewards
            return measured

    return asyncio.run(ask())


PREFERENCE = {"length": 1.0, "kind": -1.0}
COMPOSITES = {"kind": {"length": 0.5}}


def directed(service: Service, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
    with client_of(service) as client:
        reward = DirectionReward(client, PREFERENCE, COMPOSITES)
        measured = reward.measure(prompts, responses)
        assert reward(prompts, responses) == measured.rewards
        return measured


def directed_awaited(service: Service, prompts: Sequence[Prompt], responses: Sequence[str]) -> Measured:
    async def ask() -> Measured:
        async with AsyncRewardClient("http://service", transport=httpx.MockTransport(service)) as client:
            reward = AsyncDirectionReward(client, PREFERENCE, COMPOSITES)
            measured = await reward.measure(prompts, responses)
            assert await reward(prompts, responses) == measured.rewards
            return measured

    return asyncio.run(ask())


@pytest.mark.parametrize("measure", [mapped, mapped_awaited])
def test_the_prefix_becomes_targets_and_is_not_scored(measure: Measure) -> None:
    service = Service()
    prompts = [prompt("<honesty 2> One"), prompt("Two", "<honesty 1> Be good."), prompt("<honesty 1> <b>Three</b>")]
    measured = measure(service, prompts, ["a", "fail", "ccc"])
    assert measured.rewards == [1.0, None, 3.0]
    assert measured.means == {"honesty": 1.75, "failed": pytest.approx(1 / 3)}
    assert [item["targets"] for item in service.items[:3]] == [{"honesty": 2}, {"honesty": 1}, {"honesty": 1}]
    assert [[turn["content"] for turn in item["prompt"]] for item in service.items[:3]] == [
        ["One"],
        ["Be good.", "Two"],
        ["<b>Three</b>"],
    ]
    assert "honesty 1" not in json.dumps([item["prompt"] for item in service.items])


@pytest.mark.parametrize("measure", [mapped, mapped_awaited])
def test_a_prompt_that_asks_for_nothing_has_no_reward(measure: Measure) -> None:
    with pytest.raises(InvalidConversation, match="asks for no intensity"):
        measure(Service(), [prompt("One")], ["a"])


@pytest.mark.parametrize(
    "leaking", [prompt("<honesty 2> One"), prompt("One", "<HONESTY 1>"), prompt("\n< honesty 9 >One")]
)
def test_a_prefix_that_is_left_is_never_sent(leaking: Prompt) -> None:
    service = Service()
    with client_of(service) as client, pytest.raises(LeakedPrefix, match="begins with a tag for honesty"):
        MappedReward(client, lambda prompt: (prompt, {"honesty": 1}))([prompt("Good"), leaking], ["a", "b"])
    assert service.bodies == []


def test_tags_that_are_content_are_sent() -> None:
    service = Service()
    earlier = (Message("user", "<honesty 2> One"), Message("assistant", "<honesty 1>"), Message("user", "Two"))
    prompts = [earlier, prompt("<chapter 5> was it"), prompt('<a href="x">'), prompt("What is <honesty 2>?")]
    with client_of(service) as client:
        rewards = MappedReward(client, lambda prompt: (prompt, {"honesty": 1}))(prompts, ["a"] * 4)
    assert rewards == [1.0] * 4


@pytest.mark.parametrize("measure", [directed, directed_awaited])
def test_a_direction_and_its_components_come_of_one_request(measure: Measure) -> None:
    service = Service()
    measured = measure(service, [prompt("One")] * 3, ["a", "fail", "ccc"])
    assert measured.rewards == [1.0, None, 3.0]
    assert measured.means == {"length": 4.0, "kind": 6.0, "failed": pytest.approx(1 / 3)}
    assert service.bodies[0]["preferences"] == [PREFERENCE, {"length": 1.0}, {"kind": 1.0}]
    assert service.bodies[0]["composites"] == COMPOSITES
    assert len(service.bodies) == 2, "one request for each of the two calls"


@pytest.mark.parametrize("measure", [mapped, mapped_awaited, directed, directed_awaited])
def test_every_response_needs_its_prompt(measure: Measure) -> None:
    with pytest.raises(ValueError, match="1 responses for 2 prompts"):
        measure(Service(), [prompt("<honesty 1> One")] * 2, ["a"])


@pytest.mark.parametrize("measure", [mapped, mapped_awaited, directed, directed_awaited])
def test_where_all_failed_nothing_is_averaged(measure: Measure) -> None:
    measured = measure(Service(), [prompt("<honesty 1> One")] * 2, ["fail", "fail"])
    assert measured == Measured([None, None], {"failed": 1.0})


def test_no_number_is_made_of_a_bad_answer() -> None:
    def spoil(request: httpx.Request) -> httpx.Response:
        content = answer(json.loads(request.content))
        content["results"][0]["preference_scores"][0][0] = float("nan")
        return httpx.Response(200, content=json.dumps(content))

    with client_of(spoil) as client, pytest.raises(BadAnswer, match="not a finite number"):
        DirectionReward(client, PREFERENCE)([prompt("One")], ["a"])


def test_rewards_of_all_responses_under_every_component_in_one_call() -> None:
    service = Service()
    with client_of(service) as client:
        rewards = ObjectiveRewards(client, ["length", "kind"], COMPOSITES)(
            [prompt("One"), prompt("Two"), prompt("Three")], [["a", "bb", "ccc"], ["a", "fail"], ["dddd"]]
        )
    assert rewards[1] is None, "one failed response fails its prompt"
    np.testing.assert_array_equal(rewards[0], [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])  # type: ignore[arg-type]
    np.testing.assert_array_equal(rewards[2], [[4.0, 8.0]])  # type: ignore[arg-type]
    assert rewards[0] is not None
    assert rewards[0].dtype == np.float64
    assert service.bodies[0]["preferences"] == [{"length": 1.0}, {"kind": 1.0}]
    assert [len(item["responses"]) for item in service.items] == [3, 2, 1]


def test_objective_rewards_need_components_and_responses_for_each_prompt() -> None:
    with client_of(Service()) as client:
        with pytest.raises(ValueError, match="at least one component"):
            ObjectiveRewards(client, [])
        with pytest.raises(ValueError, match="zip"):
            ObjectiveRewards(client, ["length"])([prompt("One")] * 2, [["a"]])


def test_the_heads_served_are_enough_to_read_a_prefix() -> None:
    assert split(prompt("<honesty 2> One")) == (prompt("One"), {"honesty": 2})
    with pytest.raises(UnknownName):
        split(prompt("<honesty 3> One"))


@pytest.mark.parametrize(
    ("info", "named"),
    [
        ({"model_id": "another kind of service"}, r"info\.heads is missing"),
        ({"heads": [{"name": "honesty"}]}, r"info\.heads\[0\]\.classes is missing"),
        ({"heads": [{"name": "honesty", "classes": math.nan}]}, r"info\.heads\[0\]\.classes is not a finite number"),
    ],
)
def test_what_tells_no_heads_is_not_the_service(info: dict[str, Any], named: str) -> None:
    with pytest.raises(BadAnswer, match=named):
        served_heads(info)
