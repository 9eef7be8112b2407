import math

import numpy as np
import pytest

from app.errors import MalformedBody, UnknownName
from app.preferences import check_composites, preference_direction

OBJECTIVES = ("helpful", "honest", "verbose")


def test_a_direction_is_normalised_over_the_names_it_uses() -> None:
    direction = preference_direction({"helpful": 3.0, "verbose": -4.0}, OBJECTIVES, {})
    assert direction.weights == {"helpful": 0.6, "verbose": -0.8}
    assert direction.vector_K.tolist() == [0.6, 0.0, -0.8]


def test_preference_scores_are_the_dot_product_with_the_rewards() -> None:
    direction = preference_direction({"helpful": 3.0, "verbose": -4.0}, OBJECTIVES, {})
    rewards_RK = np.array([[1.0, 9.0, 0.5], [0.0, 9.0, -1.0]], dtype=np.float32)
    assert direction.scores(rewards_RK).tolist() == pytest.approx([0.6 - 0.4, 0.8], abs=1e-12)
    assert direction.scores(rewards_RK).dtype == np.float64


def test_a_composite_is_one_name_of_the_norm_and_expands_to_its_objectives() -> None:
    composites = {"good": {"helpful": 0.5, "honest": 0.5}}
    direction = preference_direction({"good": 1.0, "verbose": -1.0}, OBJECTIVES, composites)
    half = math.sqrt(0.5)
    assert direction.weights == pytest.approx({"good": half, "verbose": -half})
    assert direction.vector_K.tolist() == pytest.approx([half / 2, half / 2, -half])


def test_an_objective_named_directly_and_in_a_composite_adds_up() -> None:
    direction = preference_direction({"good": 1.0, "helpful": 1.0}, OBJECTIVES, {"good": {"helpful": 1.0}})
    assert direction.vector_K[0] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("size", [1e300, 1e-300])
def test_the_size_of_the_weights_does_not_matter(size: float) -> None:
    direction = preference_direction({"helpful": 3 * size, "honest": 4 * size}, OBJECTIVES, {})
    assert direction.weights == pytest.approx({"helpful": 0.6, "honest": 0.8})


@pytest.mark.parametrize("weights", [{}, {"helpful": 0.0}, {"helpful": 0.0, "honest": -0.0}])
def test_a_zero_direction_is_an_error(weights: dict[str, float]) -> None:
    with pytest.raises(MalformedBody, match="zero"):
        preference_direction(weights, OBJECTIVES, {})


def test_a_direction_whose_composites_cancel_is_zero_too() -> None:
    composites = {"a": {"helpful": 1.0}, "b": {"helpful": 1.0}}
    with pytest.raises(MalformedBody, match="zero"):
        preference_direction({"a": 1.0, "b": -1.0}, OBJECTIVES, composites)


@pytest.mark.parametrize("weight", [math.inf, math.nan])
def test_weights_that_are_not_finite_are_refused(weight: float) -> None:
    with pytest.raises(MalformedBody, match="finite"):
        preference_direction({"helpful": weight}, OBJECTIVES, {})


def test_a_composite_that_overflows_is_refused() -> None:
    with (
        np.errstate(over="ignore"),
        pytest.raises(MalformedBody, match="too large"),
    ):
        preference_direction({"a": 1.0, "b": 1.0}, OBJECTIVES, {"a": {"helpful": 1.7e308}, "b": {"helpful": 1.7e308}})


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownName, match=r"'helpfull'; these weights have helpful, honest, verbose, good"):
        preference_direction({"helpfull": 1.0}, OBJECTIVES, {"good": {"helpful": 1.0}})


def test_a_composite_of_an_unknown_objective_is_an_error() -> None:
    with pytest.raises(UnknownName, match="'kind'"):
        preference_direction({"good": 1.0}, OBJECTIVES, {"good": {"kind": 1.0}})
    with pytest.raises(UnknownName, match="'kind'"):
        check_composites({"good": {"kind": 1.0}}, OBJECTIVES)


def test_a_composite_may_not_hide_an_objective() -> None:
    with pytest.raises(MalformedBody, match="name of an objective"):
        check_composites({"helpful": {"honest": 1.0}}, OBJECTIVES)


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(UnknownName) as caught:
        preference_direction({"x" * 10_000: 1.0}, OBJECTIVES, {})
    assert len(str(caught.value)) < 200
