"""Every answer of a model names its revision in a header: trainers' wire formats have no other place for it."""

from typing import Any

import pytest

from tests.api.fake_engine import FakeEngine
from tests.api.serving import Served, serving

ROUTES: dict[str, Any] = {
    "/score": {"prompt": "Name a colour.", "response": "Blue."},
    "/objectives": {"prompt": "Name a colour.", "response": "Blue."},
    "/moslim-classify": {"prompt": "Name a colour.", "response": "Blue."},
    "/tokenize": {"prompt": "Name a colour.", "response": "Blue."},
    "/get_reward": {"prompt": [{"role": "user", "content": "Name a colour."}], "response": "Blue."},
    "/rerank": {"query": "Name a colour.", "documents": ["Blue."]},
    "/v1/rerank": {"query": "Name a colour.", "documents": ["Blue."]},
    "/v2/rerank": {"query": "Name a colour.", "documents": ["Blue."]},
    "/v1/chat/completions": {
        "model": "m",
        "messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}],
    },
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_scoring_route_names_the_model_that_answered(served: Served, route: str) -> None:
    answer = served.post(route, ROUTES[route])
    assert answer.status_code == 200, answer.text
    assert answer.headers.get_list("x-model-revision") == [served.fake.info.revision]


def test_texts_in_a_policys_template_too(served: Served) -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
    bodies = {
        "/get_reward": {"query": [text]},
        "/v1/score/evaluation": {"model": "m", "messages": [text]},
        "/classify": {"model": "m", "input": [text]},
        "/pooling": {"model": "m", "input": [text]},
        "/v1/embeddings": {"model": "m", "input": [text]},
    }
    answers = {route: served.post(f"{route}?template=chatml", body) for route, body in bodies.items()}
    assert {route: answer.status_code for route, answer in answers.items()} == dict.fromkeys(bodies, 200)
    revisions = {answer.headers["x-model-revision"] for answer in answers.values()}
    assert revisions == {served.fake.info.revision}


def test_who_shows_no_key_is_told_nothing_of_the_model() -> None:
    with serving(FakeEngine(), api_keys="sesame") as running:
        assert "x-model-revision" not in running.post("/score", ROUTES["/score"]).headers
        assert "x-model-revision" not in running.client.get("/livez").headers
