import numpy as np
import pytest

from app.domain import IntensityHead
from app.errors import UnknownName
from app.reward_mapping import check_targets, classified_intensity, expected_intensity, mapped_reward

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
    with pytest.raises(UnknownName, match="helpfulness must be a level from 1 to 3"):
        check_targets({"helpfulness": level}, HEADS)


def test_an_unknown_head_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match="'honesty'; these weights have helpfulness, harmless"):
        mapped_reward(PROBABILITIES, {"honesty": 1}, HEADS)
    with pytest.raises(UnknownName, match="these weights have none"):
        check_targets({"honesty": 1}, ())


def test_expected_and_classified_intensity() -> None:
    assert expected_intensity(PROBABILITIES["helpfulness"]) == pytest.approx(0.1 + 0.4 + 2.1)
    assert classified_intensity(PROBABILITIES["helpfulness"]) == 3
    assert classified_intensity(np.array([0.5, 0.5])) == 1
