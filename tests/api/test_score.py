import pytest

from tests.api.fake_engine import PLAIN, REWARD_TRANSFORM_KK, UNGATED, FakeEngine, gating_of, rewards_of
from tests.api.serving import Served, serving

PROMPT = "Say something"
RESPONSES = ["aei? bcd", "xyz", "What? Why? How?"]


def expected_scores(prompt: str = PROMPT, responses: list[str] = RESPONSES) -> list[float]:
    coefficients = gating_of(len(f"<user>{prompt}<assistant>")) @ REWARD_TRANSFORM_KK.T
    return [float(coefficients @ rewards_of(response)) for response in responses]


def test_scores_best_tokens_and_the_model_that_gave_them(served: Served) -> None:
    answer = served.post("/score", {"prompt": PROMPT, "responses": RESPONSES}).json()
    (result,) = answer["results"]
    assert result["scores"] == pytest.approx(expected_scores(), abs=1e-6)
    assert result["best"] == max(range(3), key=expected_scores().__getitem__)
    num_prompt_tokens = len(f"<user>{PROMPT}<assistant>")
    assert result["tokens"] == {"prompt": num_prompt_tokens, "responses": [len(text) + 1 for text in RESPONSES]}
    assert result["truncated"] is False
    assert answer["model"] == {
        "name": "counting",
        "revision": "0123456789ab",
        "template": "ba9876543210",
        "dtype": "float32",
    }
    num_response_tokens = sum(len(text) + 1 for text in RESPONSES)
    assert answer["usage"] == {
        "prompt_tokens": 3 * num_prompt_tokens,
        "response_tokens": num_response_tokens,
        "computed_tokens": num_prompt_tokens + num_response_tokens,
    }
    assert set(answer["timings_ms"]) == {"tokenize", "queue", "forward"}
    assert all(milliseconds >= 0 for milliseconds in answer["timings_ms"].values())
    assert "preferences" not in answer


@pytest.mark.parametrize(
    "item",
    [
        {"prompt": PROMPT, "responses": RESPONSES[:1]},
        {"prompt": PROMPT, "response": RESPONSES[0]},
        {"prompt": [{"role": "user", "content": PROMPT}], "response": RESPONSES[0]},
        {"messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSES[0]}]},
    ],
)
@pytest.mark.parametrize("form", ["top level", "items"])
def test_every_form_of_an_item_means_the_same(served: Served, item: dict[str, object], form: str) -> None:
    body = item if form == "top level" else {"items": [item]}
    (result,) = served.post("/score", body).json()["results"]
    assert result["scores"] == pytest.approx(expected_scores()[:1], abs=1e-6)


def test_a_conversation_with_system_and_earlier_turns(served: Served) -> None:
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    answer = served.post("/score", {"prompt": prompt, "response": "So long"}).json()
    assert answer["results"][0]["tokens"]["prompt"] == len(
        "<system>Be brief.<user>Hi<assistant>Hello<user>Bye<assistant>"
    )


def test_one_bad_item_does_not_hurt_the_others(served: Served) -> None:
    items = [
        {"prompt": PROMPT, "response": RESPONSES[0]},
        {"prompt": [{"role": "assistant", "content": "x"}], "response": "y"},
        {"prompt": "x" * 500, "response": "y"},
        {"prompt": PROMPT, "responses": []},
        {"prompt": PROMPT, "response": RESPONSES[1]},
    ]
    response = served.post("/score", {"items": items})
    assert response.status_code == 200
    first, roles, long, empty, last = response.json()["results"]
    assert [first["scores"][0], last["scores"][0]] == pytest.approx(expected_scores()[:2], abs=1e-6)
    assert roles["error"]["type"] == "invalid-conversation"
    assert long["error"] == {
        "type": "too-many-tokens",
        "message": "the longest conversation has 519 tokens; the limit is 400",
    }
    assert empty["error"]["message"] == "there is no response to score"


def test_items_may_all_be_bad_and_there_may_be_none(served: Served) -> None:
    answer = served.post("/score", {"items": [{"prompt": "x", "responses": []}]})
    assert answer.status_code == 200
    assert answer.json()["results"][0]["error"]["type"] == "invalid-conversation"
    empty = served.post("/score", {"items": []})
    assert empty.status_code == 200
    assert empty.json()["results"] == []


def test_a_prompt_is_only_truncated_on_request_and_the_answer_says_so(served: Served) -> None:
    body = {"prompt": "x" * 500, "response": "y"}
    assert served.post("/score", body).status_code == 413
    (result,) = served.post("/score", body | {"truncate": "prompt_left"}).json()["results"]
    assert result["truncated"] is True
    assert result["tokens"]["prompt"] + result["tokens"]["responses"][0] == 400


def test_preferences_rank_each_their_own_way(served: Served) -> None:
    body = {
        "prompt": PROMPT,
        "responses": RESPONSES,
        "preferences": [{"length": 3, "vowels": -4}, {"questions": 0.5}, {"talkative": 1, "terse": 1}],
        "composites": {"terse": {"length": -1}},
    }
    answer = served.post("/score", body).json()
    (result,) = answer["results"]
    assert result["scores"] == pytest.approx(expected_scores(), abs=1e-6)
    assert answer["preferences"] == [
        {"length": 0.6, "vowels": -0.8},
        {"questions": 1.0},
        {"talkative": pytest.approx(0.5**0.5), "terse": pytest.approx(0.5**0.5)},
    ]
    rewards = [rewards_of(text) for text in RESPONSES]
    by_hand = [
        [0.6 * length - 0.8 * vowels for length, vowels, _ in rewards],
        [questions for _, _, questions in rewards],
        [(0.5 * length + 0.5 * vowels - length) * 0.5**0.5 for length, vowels, _ in rewards],
    ]
    for got, wanted in zip(result["preference_scores"], by_hand, strict=True):
        assert got == pytest.approx(wanted, abs=1e-6)
    assert result["preference_best"] == [max(range(3), key=scores.__getitem__) for scores in by_hand]


def test_priority_bulk_is_accepted(served: Served) -> None:
    body = {"prompt": PROMPT, "responses": RESPONSES, "priority": "bulk"}
    assert served.post("/score", body).json()["results"][0]["scores"] == pytest.approx(expected_scores(), abs=1e-6)


class TestWeightsWithoutGating:
    def test_a_preference_is_needed(self, ungated: Served) -> None:
        response = ungated.post("/score", {"prompt": PROMPT, "responses": RESPONSES})
        assert response.status_code == 400
        assert response.json()["type"] == "preference-required"
        assert "length, vowels, questions, talkative" in response.json()["detail"]

    def test_one_direction_is_the_scalar(self, ungated: Served) -> None:
        body = {"prompt": PROMPT, "responses": RESPONSES, "preferences": [{"questions": 2}]}
        (result,) = ungated.post("/score", body).json()["results"]
        assert result["scores"] == result["preference_scores"][0] == pytest.approx([0.1, 0.0, 0.3], abs=1e-6)
        assert result["best"] == 2

    def test_several_directions_leave_it_open(self, ungated: Served) -> None:
        body = {"prompt": PROMPT, "responses": RESPONSES, "preferences": [{"questions": 2}, {"length": -1}]}
        (result,) = ungated.post("/score", body).json()["results"]
        assert (result["scores"], result["best"]) == (None, None)
        assert result["preference_best"] == [2, 1]

    def test_the_default_preference_is_the_scalar(self) -> None:
        with serving(FakeEngine(UNGATED), default_preference="questions:1") as running:
            answer = running.post("/score", {"prompt": PROMPT, "responses": RESPONSES}).json()
            assert answer["results"][0]["scores"] == pytest.approx([0.1, 0.0, 0.3], abs=1e-6)
            assert running.client.get("/info").json()["default_preference"] == {"questions": 1.0}

    def test_one_objective_is_a_scalar(self) -> None:
        with serving(FakeEngine(PLAIN)) as running:
            answer = running.post("/score", {"prompt": PROMPT, "responses": RESPONSES}).json()
            assert answer["results"][0]["scores"] == pytest.approx([0.08, 0.03, 0.15], abs=1e-6)
