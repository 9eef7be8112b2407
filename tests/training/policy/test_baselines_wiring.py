"""The stages of the baselines and of controllability with made-up clients: what is asked of a service, and how."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from app.client import ItemError, MoslimResult, RewardClient, ScoreResult
from app.client_results import ClassifiedResponse, HeadIntensity
from app.domain import Item, Message
from training.errors import InvalidRecipe, LeakedPrefix
from training.policy import controllability_wiring as wiring
from training.policy.baselines_configs import MorlhfConfig
from training.policy.baselines_wiring import PlainPrompts, fixed_reward
from training.policy.configs import PolicyRecipe
from training.policy.controllability import Asked, Judgement, Prompt
from training.policy.controllability_wiring import ServiceJudge
from training.policy.measuring_configs import ControllabilityConfig
from training.policy.results import ControllabilityResults, Measured, read_results
from training.policy.rewards import served_heads

HEADS = {"helpfulness": 5, "harmless": 2}
PROMPTS = [(Message("user", "one"),), (Message("user", "two"),)]


class MadeUpClient:
    """Rewards by the length of the response: a response of "fails" is an error."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def info(self) -> dict[str, Any]:
        return {"heads": [{"name": name, "classes": classes} for name, classes in HEADS.items()]}

    def score(
        self, items: Sequence[Item], preferences: Sequence[Mapping[str, float]], composites: object = None
    ) -> list[ScoreResult | ItemError]:
        """Each objective's reward is the position of its name in the alphabet plus the response's length."""
        self.asked.append(preferences)
        return [
            ItemError("too-many-tokens", "too long")
            if item.responses[0] == "fails"
            else ScoreResult(None, tuple((_directed(each, item),) for each in preferences), 1, (1,), False)
            for item in items
        ]

    def moslim_classify(self, items: Sequence[Item], targets: Any = None) -> list[MoslimResult | ItemError]:
        self.asked.append(targets)
        return [
            ItemError("too-many-tokens", "too long")
            if item.responses[0] == "fails"
            else _classified(item, index, targets)
            for index, item in enumerate(items)
        ]


def _directed(preference: Mapping[str, float], item: Item) -> float:
    length = math.hypot(*preference.values())
    return sum(w / length * (ord(name[0]) - 97 + len(item.responses[0])) for name, w in preference.items())


def _classified(item: Item, index: int, targets: Any) -> MoslimResult:
    heads = {name: HeadIntensity((1.0,) + (0.0,) * (count - 1), 1, 1.0) for name, count in HEADS.items()}
    own = targets[index] if isinstance(targets, list) else targets
    reward = None if own is None else 10.0 * len(own) + sum(own.values())
    return MoslimResult((ClassifiedResponse(heads, reward),), None, False)


def recipe(**morlhf: tuple[str, ...]) -> PolicyRecipe:
    return PolicyRecipe("work", morlhf=MorlhfConfig(**morlhf))


def client() -> tuple[MadeUpClient, RewardClient]:
    made_up = MadeUpClient()
    return made_up, cast("RewardClient", made_up)


def test_objectives_are_weighed_as_written_in_one_request() -> None:
    """The service weighs by the unit vector; Eq. 1 does not."""
    made_up, given = client()
    reward = fixed_reward(recipe(objectives=("b: 2", "a: -0.5", "c: 0")), given)
    assert reward(PROMPTS, ["xx", "fails"]) == [pytest.approx(2 * 3 - 0.5 * 2), None]
    assert len(made_up.asked) == 1
    assert made_up.asked[0][0] == {"b": 2.0, "a": -0.5}


def test_heads_are_weighed_each_at_its_highest_level() -> None:
    made_up, given = client()
    reward = fixed_reward(recipe(heads=("helpfulness: 2", "harmless: 0.5")), given)
    assert reward(PROMPTS, ["x", "fails"]) == [pytest.approx(2 * 15 + 0.5 * 12), None]
    assert made_up.asked == [[{"helpfulness": 5}] * 2, [{"harmless": 2}] * 2]


@pytest.mark.parametrize(
    ("weighed", "said"),
    [
        ({}, "must name what is weighed"),
        ({"heads": ("kindness: 1",)}, "kindness; served are helpfulness, harmless"),
        ({"heads": ("helpfulness: 0",)}, "one at least that is not 0"),
        ({"objectives": ("a: 0",)}, "one at least that is not 0"),
        ({"objectives": ("a",)}, "`NAME: WEIGHT`"),
        ({"objectives": ("a: much",)}, "`NAME: WEIGHT`"),
        ({"objectives": ("a: inf",)}, "`NAME: WEIGHT`"),
        ({"objectives": ("a: 1", "a: 2")}, "each name once"),
        ({"objectives": ("a: 1",), "heads": ("helpfulness: 1",)}, "not both"),
    ],
)
def test_what_is_no_weighting_is_refused(weighed: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        fixed_reward(recipe(**weighed), client()[1])


def test_the_prompts_of_a_step_have_no_prefix_and_repeat() -> None:
    prompts = [(Message("user", str(index)),) for index in range(10)]
    drawn = PlainPrompts(prompts, 4, seed=2)
    assert drawn(1) == drawn(1) != drawn(2)
    assert set(drawn(1)) <= set(prompts)
    assert len(drawn(1)) == 4


def test_a_judge_gives_probabilities_and_the_reward_of_the_targets_and_none_for_an_error() -> None:
    made_up, given = client()
    judge = ServiceJudge(given, served_heads(made_up.info()))
    probabilities = {"helpfulness": (1.0, 0.0, 0.0, 0.0, 0.0), "harmless": (1.0, 0.0)}
    assert judge(PROMPTS, ["x", "fails"], {"helpfulness": 5}) == [Judgement(probabilities, 15.0), None]
    assert judge(PROMPTS, ["x", "fails"], {}) == [Judgement(probabilities, None), None]
    assert made_up.asked == [{"helpfulness": 5}, None], "beside the prompts, and none where none is asked for"


def test_a_judge_refuses_a_prompt_with_a_prefix() -> None:
    made_up, given = client()
    judge = ServiceJudge(given, served_heads(made_up.info()))
    with pytest.raises(LeakedPrefix):
        judge([(Message("user", "<harmless 1> two"),)], ["x"], {"harmless": 1})
    assert made_up.asked == []


class ByLength:
    """A judge whose reward is the response's length, whatever is asked for."""

    heads = served_heads(MadeUpClient().info())

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], targets: Mapping[str, int]
    ) -> list[Judgement | None]:
        uniform = {head.name: [1 / head.classes] * head.classes for head in self.heads}
        return [Judgement(uniform, float(len(text)) if targets else None) for text in responses]


class Constant:
    """Gives one response to whatever it is asked."""

    def __init__(self, response: str) -> None:
        self.response = response

    def sample(self, prompts: Sequence[Prompt], n: int, seed: int) -> list[list[str]]:
        return [[self.response] * n for _ in prompts]


def test_each_policy_is_compared_with_the_sft_policy_and_said_in_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ControllabilityConfig(responses_per_prompt=1)
    asked = Asked("", PROMPTS, HEADS, lambda prompt, _: prompt, config)
    monkeypatch.setattr(wiring, "judges_of", lambda _: nullcontext({"service": ByLength()}))
    monkeypatch.setattr(wiring, "asked_of", lambda *_: asked)
    monkeypatch.setattr(wiring, "policies_of", lambda _: {"sft": "x", "ppo": "xxx"})
    monkeypatch.setattr(wiring, "Samplers", lambda _: lambda name, folder, temperature: Constant(folder))
    wiring.run(PolicyRecipe(str(tmp_path)))
    sft, ppo = (
        read_results(ControllabilityResults, tmp_path / "controllability" / f"{name}.json").judges[0]
        for name in ("sft", "ppo")
    )
    assert (sft.reward, sft.over_sft) == (Measured(1.0, 1.0, 1.0, 2), None)
    assert (ppo.reward, ppo.over_sft) == (Measured(3.0, 3.0, 3.0, 2), Measured(2.0, 2.0, 2.0, 2))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "sft, service: mapped reward +1.00 [+1.00, +1.00]"
    assert printed[3] == "ppo, service: mapped reward +3.00 [+3.00, +3.00], over sft +2.00 [+2.00, +2.00]"
    assert printed[5] == "ppo, service: harmless got 1.50 1.50, Spearman +0.00 [+0.00, +0.00]"
