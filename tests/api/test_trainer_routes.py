"""The routes with one wire format each, over a fake engine whose numbers can be checked by hand."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from app.api.trainers.llamafactory import ScoreEvaluationAnswer
from app.api.trainers.nim import ChatAnswer
from app.api.trainers.rerank import RerankAnswer
from app.api.trainers.vllm import ClassifyAnswer, EmbeddingsAnswer, PoolingAnswer
from app.domain import Objective
from app.errors import NotInTheseWeights
from tests.api.fake_engine import GATED, HEADS, NAN, PLAIN, FakeEngine, probabilities_of, rewards_of
from tests.api.serving import Served, serving, wait_until
from tests.api.test_get_reward import PROMPT, QUERY, RESPONSES, SCALED, TURNS, scores
from tests.api.test_moslim import mapped
from tests.api.trainer_wires import MESSAGES, PROMPTED, TEXTS, Wire, messages_of

WIRES = {
    **{f"{name}, texts": (wire, [QUERY]) for name, wire in TEXTS.items()},
    **{f"{name}, prompt": (wire, ["Say something", RESPONSES]) for name, wire in PROMPTED.items() if "rank" in name},
    **{f"{name}, messages": (wire, [messages_of(TURNS, RESPONSES[0])]) for name, wire in MESSAGES.items()},
}
each_wire = pytest.mark.parametrize(("wire", "asked"), list(WIRES.values()), ids=list(WIRES))
MESSAGE_BODY = {"messages": messages_of(TURNS, "abcd")}


@pytest.fixture(scope="module")
def scaled() -> Iterator[Served]:
    with serving(FakeEngine(SCALED)) as running:
        yield running


def answer_of(served: Served, path: str, body: Any, kind: Any) -> Any:
    response = served.post(path, body)
    assert response.status_code == 200, response.text
    return TypeAdapter(kind).validate_python(response.json(), strict=True)


class TestEveryRoute:
    @each_wire
    def test_rewards_are_the_scores(self, served: Served, wire: Wire, asked: list[Any]) -> None:
        got = wire.ask(served, "", *asked)
        assert got == pytest.approx(scores(served)[: len(got)], abs=1e-9)

    @each_wire
    def test_targets_give_the_mapped_reward(self, served: Served, wire: Wire, asked: list[Any]) -> None:
        targets = {"helpfulness": 3, "harmless": 1}
        got = wire.ask(served, "?targets=helpfulness:max,harmless:1", *asked)
        assert got == pytest.approx([mapped(text, targets) for text in RESPONSES][: len(got)], abs=1e-5)

    @each_wire
    def test_a_preference_gives_its_direction(self, served: Served, wire: Wire, asked: list[Any]) -> None:
        got = wire.ask(served, "?preference=length:3,vowels:-4", *asked)
        expected = [0.6 * r[0] - 0.8 * r[1] for r in map(rewards_of, RESPONSES)]
        assert got == pytest.approx(expected[: len(got)], abs=1e-6)

    @each_wire
    def test_normalisation_holds_for_it(self, scaled: Served, wire: Wire, asked: list[Any]) -> None:
        got = wire.ask(scaled, "?normalise=score", *asked)
        expected = [(score - 1.0) / (4 / 12**0.5) for score in scores(scaled)]
        assert got == pytest.approx(expected[: len(got)], abs=1e-9)

    @each_wire
    def test_the_key_may_stand_in_the_url_and_requests_are_counted(self, wire: Wire, asked: list[Any]) -> None:
        with serving(api_keys="sesame") as running:
            assert running.post(wire.path, wire.body(*asked)).status_code == 401
            url = f"http://any:sesame@127.0.0.1:{running.port}{wire.path}"
            answer = running.client.post(url, json=wire.body(*asked), headers={"X-Request-Id": "step-7"})
            assert (answer.status_code, answer.headers["x-request-id"]) == (200, "step-7")
            assert "step-7" in answer.json().get("id", "step-7")
            labels = {"route": wire.path, "status": "200"}
            wait_until(lambda: running.metric("armoserve_requests_total", **labels) == 1)

    @each_wire
    def test_several_objectives_need_a_preference(self, ungated: Served, wire: Wire, asked: list[Any]) -> None:
        problem = ungated.post(wire.path, wire.body(*asked)).json()
        assert (problem["status"], problem["type"]) == (400, "preference-required")

    @each_wire
    def test_an_unknown_option_is_not_passed_over(self, served: Served, wire: Wire, asked: list[Any]) -> None:
        problem = served.post(f"{wire.path}?target=prefix", wire.body(*asked)).json()
        assert (problem["status"], problem["type"]) == (422, "malformed-body")

    @pytest.mark.parametrize("name", list(TEXTS))
    def test_one_text_at_fault_fails_the_request_and_is_named(self, served: Served, name: str) -> None:
        for text, status in (("xyzzy", 400), (f"{PROMPT}{'x' * 900}", 413), (f"{PROMPT}{NAN}", 500)):
            problem = served.post(TEXTS[name].path, TEXTS[name].body([QUERY[0], text])).json()
            assert problem["status"] == status
            field = {"openrlhf": "query", "llamafactory": "messages"}.get(name, "input")
            assert problem["detail"].startswith(f"{field}[1]: ")
            assert "xyzzy" not in problem["detail"]

    @pytest.mark.parametrize("name", list(TEXTS))
    def test_oddities_are_counted_and_reported(self, served: Served, name: str) -> None:
        start = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        texts = [f"<s><s>{start}a<|im_end|>", f"{start}a<|im_end|>\n{start}b<|im_end|>", f"{start}a", f"{start}b"]
        kinds = {"double_bos": 1, "extra_header": 1, "unclosed_response": 2, "prompt_not_prefix": 0}
        before = {kind: served.metric("armoserve_template_warnings_total", kind=kind) for kind in kinds}
        answer = served.post(f"{TEXTS[name].path}?template=chatml", TEXTS[name].body(texts))
        assert answer.headers["x-template-warnings"] == "double_bos=1, extra_header=1, unclosed_response=2"
        after = {kind: served.metric("armoserve_template_warnings_total", kind=kind) for kind in kinds}
        assert {kind: after[kind] - before[kind] for kind in kinds} == kinds

    def test_nothing_is_reported_of_texts_as_they_should_be(self, served: Served) -> None:
        for wire in TEXTS.values():
            assert "x-template-warnings" not in served.post(wire.path, wire.body(QUERY)).headers


class TestLlamaFactory:
    def test_scores_and_the_name_of_what_answers(self, served: Served) -> None:
        answer = answer_of(served, "/v1/score/evaluation", {"messages": QUERY}, ScoreEvaluationAnswer)
        assert answer["scores"] == pytest.approx(scores(served), abs=1e-9)
        assert answer["model"] == GATED.name


class TestClassify:
    @pytest.mark.parametrize("text", [QUERY[0], QUERY[:1]])
    def test_one_class_whose_value_is_the_reward(self, served: Served, text: Any) -> None:
        answer = answer_of(served, "/classify", {"model": "m", "input": text}, ClassifyAnswer)
        (expected, _) = scores(served)
        assert answer["data"] == [{"index": 0, "label": "reward", "probs": [pytest.approx(expected)], "num_classes": 1}]
        tokens = len(QUERY[0]) + 1
        assert answer["usage"] == {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        assert "warnings" not in answer

    @pytest.mark.parametrize("field", ["use_activation", "activation"])
    @pytest.mark.parametrize("path", ["/classify", "/pooling"])
    def test_an_activation_is_not_applied_and_that_is_said(self, served: Served, path: str, field: str) -> None:
        kind = {"/classify": ClassifyAnswer, "/pooling": PoolingAnswer}[path]
        raw = answer_of(served, path, {"input": QUERY, field: False}, kind)
        answer = answer_of(served, path, {"input": QUERY, field: True}, kind)
        assert answer["data"] == raw["data"]
        assert "warnings" not in raw
        assert answer["warnings"] == [f"values are raw, whatever {field} says: no activation is applied"]


class TestPooling:
    @pytest.mark.parametrize("query", ["", "?targets=helpfulness:1", "?preference=vowels:1"])
    def test_the_reward_then_every_objective(self, served: Served, query: str) -> None:
        answer = answer_of(served, f"/pooling{query}", {"input": QUERY, "task": "classify"}, PoolingAnswer)
        rewards = PROMPTED["openrlhf"].ask(served, query, PROMPT, RESPONSES)
        for one, reward, text in zip(answer["data"], rewards, RESPONSES, strict=True):
            assert one["data"] == pytest.approx([reward, *rewards_of(text)])


class TestEmbeddings:
    def test_the_reward_is_the_one_element(self, served: Served) -> None:
        answer = answer_of(served, "/v1/embeddings", {"input": QUERY, "encoding_format": "float"}, EmbeddingsAnswer)
        assert [one["embedding"] for one in answer["data"]] == [[pytest.approx(score)] for score in scores(served)]

    @pytest.mark.parametrize(("path", "field"), [("/v1/embeddings", "embedding"), ("/pooling", "data")])
    def test_base64_holds_the_same_as_float32(self, served: Served, path: str, field: str) -> None:
        plain = served.post(path, {"input": QUERY}).json()["data"]
        coded = served.post(path, {"input": QUERY, "encoding_format": "base64"}).json()["data"]
        for one, other in zip(plain, coded, strict=True):
            assert np.frombuffer(base64.b64decode(other[field]), "<f4") == pytest.approx(one[field], rel=1e-7)

    def test_what_no_float32_can_hold_is_an_error(self) -> None:
        narrow = replace(GATED, score_quantiles=(0.0, 1e-60, 2e-60))
        with serving(FakeEngine(narrow)) as running:
            body = {"input": QUERY, "encoding_format": "base64"}
            problem = running.post("/v1/embeddings?normalise=score", body).json()
            assert (problem["status"], problem["type"]) == (500, "inference-failed")


class TestChat:
    def test_the_reward_then_every_objective_by_name(self, served: Served) -> None:
        answer = answer_of(served, "/v1/chat/completions", MESSAGE_BODY, ChatAnswer)
        (choice,) = answer["choices"]
        tokens = choice["logprobs"]["content"]
        assert [one["token"] for one in tokens] == ["reward", *GATED.objective_names]
        expected = [scores(served)[0], *rewards_of("abcd")]
        assert [one["logprob"] for one in tokens] == pytest.approx(expected)
        assert choice["message"] == {"role": "assistant", "content": f"reward:{tokens[0]['logprob']}"}

    def test_intensities_come_with_targets(self, served: Served) -> None:
        answer = served.post("/v1/chat/completions?targets=harmless:1", MESSAGE_BODY).json()
        values = {one["token"]: one["logprob"] for one in answer["choices"][0]["logprobs"]["content"]}
        for head in HEADS:
            expected = float(probabilities_of("abcd", head) @ np.arange(1, head.classes + 1))
            assert values[f"intensity/{head.name}"] == pytest.approx(expected, abs=1e-6)

    def test_an_objective_called_reward_does_not_hide_the_reward(self) -> None:
        with serving(FakeEngine(replace(PLAIN, objectives=(Objective("reward"),)))) as running:
            answer = running.post("/v1/chat/completions?preference=reward:-1", MESSAGE_BODY).json()
        tokens = answer["choices"][0]["logprobs"]["content"]
        assert [(one["token"], one["logprob"]) for one in tokens] == [("reward", pytest.approx(-rewards_of("abcd")[0]))]

    def test_what_sdks_add_to_a_request_is_passed_over(self, served: Served) -> None:
        turns = [{**turn, "name": "x", "tool_calls": None, "refusal": None} for turn in MESSAGE_BODY["messages"]]
        extra = {"temperature": 0.2, "max_tokens": 1, "stream": False, "n": 1, "user": "u", "logprobs": True}
        plain, full = (
            served.post("/v1/chat/completions", body).json()["choices"]
            for body in (MESSAGE_BODY, {"messages": turns, **extra})
        )
        assert plain == full


class TestRerank:
    @pytest.mark.parametrize("documents", [["a", "abcde", "abc"], [{"text": "a"}, "abcde", {"text": "abc"}]])
    def test_the_best_first_with_their_texts(self, served: Served, documents: list[Any]) -> None:
        body = {"model": "m", "query": "Say something", "documents": documents, "top_n": 2}
        answer = answer_of(served, "/rerank?preference=length:1", body, RerankAnswer)
        assert answer["results"] == [
            {"index": 1, "relevance_score": pytest.approx(0.05), "document": {"text": "abcde"}},
            {"index": 2, "relevance_score": pytest.approx(0.03), "document": {"text": "abc"}},
        ]

    @pytest.mark.parametrize(("top_n", "number"), [(None, 3), (0, 3), (1, 1), (9, 3)])
    def test_how_many_come_back(self, served: Served, top_n: int | None, number: int) -> None:
        body = {"query": "Hi", "documents": ["a", "b", "c"], "top_n": top_n, "return_documents": False}
        results = answer_of(served, "/v2/rerank", body, RerankAnswer)["results"]
        assert [set(one) for one in results] == [{"index", "relevance_score"}] * number

    def test_equals_keep_their_order(self, served: Served) -> None:
        results = served.post("/rerank", {"query": "Hi", "documents": ["bcd", "fgh", "jkl"]}).json()["results"]
        assert [one["index"] for one in results] == [0, 1, 2]

    def test_turns_and_rendered_prompts_are_queries_too(self, served: Served) -> None:
        rendered = "<|im_start|>user\nSay something<|im_end|>\n<|im_start|>assistant\n"
        closed = [f"{text}<|im_end|>" for text in RESPONSES]
        expected = pytest.approx(scores(served), abs=1e-9)
        assert PROMPTED["/rerank"].ask(served, "?template=chatml", rendered, closed) == expected
        assert PROMPTED["/rerank"].ask(served, "", TURNS, RESPONSES) == expected

    def test_a_document_at_fault_is_named(self, served: Served) -> None:
        problem = served.post("/rerank", {"query": "Hi", "documents": ["a", "x" * 900]}).json()
        assert (problem["status"], problem["type"]) == (413, "too-many-tokens")
        assert problem["detail"].startswith("documents[1]: ")


def test_weights_whose_own_template_cannot_be_read_still_take_messages(served: Served) -> None:
    """Only texts have to be read back."""
    with serving() as running:
        assert running.state.model is not None
        running.state.model = replace(running.state.model, own_format=unreadable)
        for wire in MESSAGES.values():
            got = wire.ask(running, "", messages_of(TURNS, RESPONSES[0]))
            assert got == pytest.approx(scores(served)[:1], abs=1e-9)
        assert running.post("/classify", {"input": QUERY}).status_code == 501


def unreadable() -> Any:
    raise NotInTheseWeights("the template of these weights cannot be read back")
