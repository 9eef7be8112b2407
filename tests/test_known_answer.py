from dataclasses import replace

import numpy as np
import pytest

from app.domain import Item, ModelInfo, NativeScale, Objective, TokenizedConversation, TokenizedItem, Truncation
from app.errors import InvalidWeights
from app.known_answer import COEFFICIENTS, NATIVE_REWARDS, PUBLISHED_NAME, check_known_answer, has_known_answer
from app.packing import Pack, PackOutput

NAMES = (*NATIVE_REWARDS, "ultrafeedback-instruction_following", "code-complexity")
SCALE = NativeScale(slope=5.0, intercept=-0.5)
INFO = ModelInfo(
    name=f"RLHFlow/{PUBLISHED_NAME}",
    revision="",
    template="",
    dtype="bfloat16",
    device="cpu",
    objectives=tuple(Objective(name, native=SCALE) for name in NAMES),
    has_gating=True,
    max_conversation_tokens=100,
)
PUBLISHED = {
    **{name: (native + 0.5) / 5 for name, native in NATIVE_REWARDS.items()},
    "ultrafeedback-instruction_following": 0.7,
    "code-complexity": 0.7,
}


def encode(item: Item, truncation: Truncation = "never") -> TokenizedItem:
    return TokenizedItem((TokenizedConversation((1,), (2,), 0),))


class Model:
    def __init__(self, rewards: dict[str, float], coefficients: dict[str, float]) -> None:
        self.rewards_K = np.array([rewards[name] for name in NAMES], dtype=np.float32)
        self.coefficients_K = np.array([coefficients.get(name, 0.0) for name in NAMES], dtype=np.float32)

    def forward(self, pack: Pack) -> PackOutput:
        coefficients_PK = self.coefficients_K[None]
        score = np.array([self.rewards_K @ self.coefficients_K], dtype=np.float32)
        return PackOutput(self.rewards_K[None], pack.prefix_of_response_R, abs(coefficients_PK), coefficients_PK, score)


def check(rewards: dict[str, float], coefficients: dict[str, float], info: ModelInfo = INFO) -> None:
    check_known_answer(info, encode, Model(rewards, coefficients).forward)


def test_only_the_published_checkpoint_has_one() -> None:
    assert has_known_answer(INFO)
    assert has_known_answer(replace(INFO, name=PUBLISHED_NAME))
    assert not has_known_answer(replace(INFO, name="my-ArmoRM"))


def test_the_model_cards_answer_passes_with_its_rounding() -> None:
    check(PUBLISHED, dict(COEFFICIENTS))
    check({name: reward + 0.009 for name, reward in PUBLISHED.items()}, dict(COEFFICIENTS))


@pytest.mark.parametrize("name", NATIVE_REWARDS)
@pytest.mark.parametrize("fault", [0.02, -2.0, float("nan")])
def test_a_reward_that_is_off_is_named(name: str, fault: float) -> None:
    with pytest.raises(InvalidWeights, match=f"native reward of {name} is not the model card's: expected"):
        check(PUBLISHED | {name: PUBLISHED[name] + fault}, dict(COEFFICIENTS))


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_a_coefficient_that_is_off_is_named(name: str) -> None:
    with pytest.raises(InvalidWeights, match=f"coefficient of {name}"):
        check(PUBLISHED, dict(COEFFICIENTS) | {name: 0.0 if abs(COEFFICIENTS[name]) > 0.06 else 1.0})


def test_quantised_weights_may_be_further_off_but_not_anywhere() -> None:
    off = {name: reward + 0.02 for name, reward in PUBLISHED.items()}
    check(off, dict(COEFFICIENTS), replace(INFO, quantization="int8"))
    far = {name: reward + 0.2 for name, reward in PUBLISHED.items()}
    with pytest.raises(InvalidWeights, match=r"native reward of helpsteer-helpfulness .*, tolerance 0\.8156"):
        check(far, dict(COEFFICIENTS), replace(INFO, quantization="int8"))
    with pytest.raises(InvalidWeights, match=r"coefficient of code-complexity .*, tolerance 0\.09"):
        check(PUBLISHED, dict(COEFFICIENTS) | {"code-complexity": 0.0}, replace(INFO, quantization="int8"))


def test_an_objective_that_is_not_there_is_off() -> None:
    short = replace(INFO, objectives=INFO.objectives[1:])
    with pytest.raises(InvalidWeights, match="got nothing"):
        check(PUBLISHED, dict(COEFFICIENTS), short)
