import numpy as np
import pytest

from app.domain import IntensityHead
from app.errors import InvalidConversation, UnknownName
from app.reward_mapping import classified_intensity, expected_intensity, levels_of, mapped_reward

HELPFULNESS = IntensityHead("helpfulness", 3, (0.2, 0.3, 0.5), (0.1, 0.2, 0.25))
HARMLESSNESS = IntensityHead("harmless", 2, (0.4, 0.6), (0.5, 0.2))
HEADS = (HELPFULNESS, HARMLESSNESS)
PROBABILITIES = {
    "helpfulness": np.array([0.1, 0.2, 0.7], dtype=np.float32),
    "harmless": np.array([0.9, 0.1], dtype=np.float32),
}


def test_equation_11_by_hand() -> None:
    # ((0.7 - 0.5) / 0.25 + (0.9 - 0.4) / 0.5) / 2 = (0.8 + 1.0) / 2
    assert mapped_reward(PROBABILITIES, {"helpfulness": 3, "harmless": 1}, HEADS) == pytest.approx(0.9)


def test_k_counts_the_heads_without_a_target() -> None:
    assert mapped_reward(PROBABILITIES, {"helpfulness": 3}, HEADS) == pytest.approx(0.4)
    assert mapped_reward(PROBABILITIES, {"helpfulness": 3}, (HELPFULNESS,)) == pytest.approx(0.8)


def test_levels_are_one_based() -> None:
    assert mapped_reward(PROBABILITIES, {"helpfulness": 1}, (HELPFULNESS,)) == pytest.approx((0.1 - 0.2) / 0.1)


def test_no_target_is_no_reward_and_not_zero() -> None:
    with pytest.raises(ValueError, match="at least one target"):
        mapped_reward(PROBABILITIES, {}, HEADS)


@pytest.mark.parametrize("level", [0, 4, -1])
def test_a_level_out_of_range_is_answered_with_the_range(level: int) -> None:
    with pytest.raises(UnknownName, match="helpfulness takes 1 to 3, or max"):
        levels_of({"helpfulness": level}, HEADS)


def test_an_unknown_head_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match="'honesty'; these weights have helpfulness, harmless"):
        mapped_reward(PROBABILITIES, {"honesty": 1}, HEADS)
    with pytest.raises(UnknownName, match="these weights have none"):
        levels_of({"honesty": 1}, ())


def test_max_and_both_spellings_of_harmless_are_read() -> None:
    assert levels_of({"harmlessness": 2, "helpfulness": "max"}, HEADS) == {"harmless": 2, "helpfulness": 3}
    assert mapped_reward(PROBABILITIES, {"harmlessness": "max"}, HEADS) == mapped_reward(
        PROBABILITIES, {"harmless": 2}, HEADS
    )
    with pytest.raises(InvalidConversation, match="harmless twice"):
        levels_of({"harmless": 2, "harmlessness": 2}, HEADS)


def test_expected_and_classified_intensity() -> None:
    assert expected_intensity(PROBABILITIES["helpfulness"]) == pytest.approx(0.1 + 0.4 + 2.1)
    assert classified_intensity(PROBABILITIES["helpfulness"]) == 3
    assert classified_intensity(np.array([0.5, 0.5])) == 1
