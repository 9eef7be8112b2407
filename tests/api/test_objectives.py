import math

import numpy as np
import pytest

from app.api.explanation import gating_entropy, percentile
from tests.api.fake_engine import PLAIN, REWARD_TRANSFORM_KK, FakeEngine, gating_of, rewards_of
from tests.api.serving import Served, serving

PROMPT = "Say something"
RESPONSES = ["aei? bcd", "xyz", "What? Why? How?"]
GATING = gating_of(len(f"<user>{PROMPT}<assistant>"))
BODY = {"prompt": PROMPT, "responses": RESPONSES}


def test_each_row_is_what_the_readout_says(served: Served) -> None:
    (result,) = served.post("/objectives", BODY).json()["results"]
    coefficients = GATING @ REWARD_TRANSFORM_KK.T
    for text, response in zip(RESPONSES, result["responses"], strict=True):
        rows = response["objectives"]
        assert [row["name"] for row in rows] == ["length", "vowels", "questions"]
        assert [row["reward"] for row in rows] == pytest.approx(rewards_of(text), abs=1e-6)
        assert [row["gating"] for row in rows] == pytest.approx(list(GATING), abs=1e-6)
        assert [row["coefficient"] for row in rows] == pytest.approx(list(coefficients), abs=1e-6)
        assert [row["native"] for row in rows] == [
            pytest.approx(100 * rewards_of(text)[0], abs=1e-4),
            None,
            pytest.approx(10 * rewards_of(text)[2] + 1, abs=1e-4),
        ]
        assert rows[1]["percentile"] is rows[2]["percentile"] is None


def test_contributions_sum_to_the_score_that_the_score_route_gives(served: Served) -> None:
    (result,) = served.post("/objectives", BODY).json()["results"]
    (scored,) = served.post("/score", BODY).json()["results"]
    assert [response["score"] for response in result["responses"]] == scored["scores"]
    for response in result["responses"]:
        contributions = [row["contribution"] for row in response["objectives"]]
        size = sum(map(abs, contributions))
        assert abs(sum(contributions) - response["score"]) <= 1e-5 * size


def test_percentiles_rank_in_the_reference(served: Served) -> None:
    (result,) = served.post("/objectives", BODY).json()["results"]
    # quantiles of length: 0, 0.1, 0.2, 0.4, 0.8; rewards 0.08, 0.03, 0.15
    assert [response["objectives"][0]["percentile"] for response in result["responses"]] == pytest.approx(
        [20.0, 7.5, 37.5], abs=1e-4
    )


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(-1, 0), (0, 0), (0.5, 12.5), (1, 37.5), (1.5, 62.5), (2, 75), (3, 100), (9, 100)],
)
def test_percentile_by_hand(reward: float, expected: float) -> None:
    assert percentile(reward, (0.0, 1.0, 1.0, 2.0, 3.0)) == pytest.approx(expected)


@pytest.mark.parametrize("quantiles", [(), (1.0,)])
def test_without_a_reference_there_is_no_percentile(quantiles: tuple[float, ...]) -> None:
    assert percentile(0.5, quantiles) is None


def test_gating_entropy_by_hand(served: Served) -> None:
    assert gating_entropy(np.array([0.25] * 4)) == pytest.approx(math.log(4))
    assert gating_entropy(np.array([1.0, 0.0])) == 0.0
    assert gating_entropy(np.array([2.0, 2.0])) == pytest.approx(math.log(2))
    (result,) = served.post("/objectives", BODY).json()["results"]
    assert result["gating_entropy"] == pytest.approx(-float((GATING * np.log(GATING)).sum()), abs=1e-6)


def test_top_k_keeps_the_largest_and_the_sum(served: Served) -> None:
    (whole,) = served.post("/objectives", BODY).json()["results"]
    (cut,) = served.post("/objectives", BODY | {"top_k": 1}).json()["results"]
    for full, short in zip(whole["responses"], cut["responses"], strict=True):
        by_size = sorted((abs(row["contribution"]), row["name"]) for row in full["objectives"])
        largest, other = short["objectives"]
        assert largest["name"] == by_size[-1][1]
        assert other["name"] == "other"
        assert other["reward"] is None
        total = sum(row["contribution"] for row in full["objectives"])
        assert largest["contribution"] + other["contribution"] == pytest.approx(total)


def test_top_k_beyond_all_objectives_adds_nothing(served: Served) -> None:
    (result,) = served.post("/objectives", BODY | {"top_k": 3}).json()["results"]
    assert all(len(response["objectives"]) == 3 for response in result["responses"])
    assert "other" not in {row["name"] for row in result["responses"][0]["objectives"]}


@pytest.mark.parametrize("options", [{}, {"top_k": 1}])
def test_differences_tell_what_made_the_best_win(served: Served, options: dict[str, int]) -> None:
    (result,) = served.post("/objectives", BODY | options).json()["results"]
    scores = [response["score"] for response in result["responses"]]
    best = scores.index(max(scores))
    assert [(one["best"], one["other"]) for one in result["differences"]] == [(best, i) for i in range(3) if i != best]
    for difference in result["differences"]:
        parts = [row["difference"] for row in difference["objectives"]]
        expected = scores[best] - scores[difference["other"]]
        assert difference["score_difference"] == pytest.approx(expected, abs=1e-5 * sum(map(abs, parts)))
        assert sum(parts) == pytest.approx(difference["score_difference"], abs=1e-14)
        assert len(parts) == (2 if options else 3)


def test_one_response_differs_from_nothing(served: Served) -> None:
    (result,) = served.post("/objectives", {"prompt": PROMPT, "response": "x"}).json()["results"]
    assert result["differences"] == []


def test_one_direction_is_explained_in_place_of_the_gating(served: Served) -> None:
    answer = served.post("/objectives", BODY | {"preferences": [{"length": 3, "vowels": -4}]}).json()
    (result,) = answer["results"]
    assert answer["preferences"] == [{"length": 0.6, "vowels": -0.8}]
    for text, response in zip(RESPONSES, result["responses"], strict=True):
        length, vowels, _ = rewards_of(text)
        assert response["score"] == pytest.approx(0.6 * length - 0.8 * vowels, abs=1e-6)
        assert [row["coefficient"] for row in response["objectives"]] == [0.6, -0.8, 0.0]
        assert sum(row["contribution"] for row in response["objectives"]) == pytest.approx(response["score"])


def test_two_directions_are_not_explained_at_once(served: Served, ungated: Served) -> None:
    for running in (served, ungated):
        problem = running.post("/objectives", BODY | {"preferences": [{"length": 1}, {"vowels": 1}]}).json()
        assert (problem["status"], problem["type"]) == (422, "malformed-body")
        assert problem["errors"] == [
            {"field": "preferences", "message": "/objectives explains one direction at a time"}
        ]


class TestWeightsWithoutGating:
    @pytest.mark.parametrize("preferences", [None, []])
    def test_without_a_direction_there_is_nothing_to_contribute(
        self, ungated: Served, preferences: list[dict[str, float]] | None
    ) -> None:
        (result,) = ungated.post("/objectives", BODY | {"preferences": preferences}).json()["results"]
        assert result["gating_entropy"] is None
        assert result["differences"] is None
        for response in result["responses"]:
            assert response["score"] is None
            assert all(row["reward"] is not None for row in response["objectives"])
            assert all(row[key] is None for row in response["objectives"] for key in ("gating", "contribution"))

    def test_one_direction_gives_the_coefficients(self, ungated: Served) -> None:
        (result,) = ungated.post("/objectives", BODY | {"preferences": [{"questions": 5}]}).json()["results"]
        assert [response["score"] for response in result["responses"]] == pytest.approx([0.1, 0.0, 0.3], abs=1e-6)
        assert [row["coefficient"] for row in result["responses"][0]["objectives"]] == [0.0, 0.0, 1.0]
        assert result["responses"][0]["objectives"][0]["gating"] is None

    def test_top_k_needs_contributions_to_rank(self, ungated: Served) -> None:
        response = ungated.post("/objectives", BODY | {"top_k": 1})
        assert (response.status_code, response.json()["type"]) == (400, "preference-required")

    def test_one_objective_has_a_score_and_no_coefficient(self) -> None:
        with serving(FakeEngine(PLAIN)) as running:
            (result,) = running.post("/objectives", BODY).json()["results"]
            assert result["responses"][0]["score"] == pytest.approx(0.08)
            assert result["responses"][0]["objectives"][0]["coefficient"] is None
            assert result["differences"] is None

    def test_one_objective_needs_no_ranking(self) -> None:
        with serving(FakeEngine(PLAIN)) as running:
            (whole,) = running.post("/objectives", BODY).json()["results"]
            (ranked,) = running.post("/objectives", BODY | {"top_k": 1}).json()["results"]
            assert ranked == whole
