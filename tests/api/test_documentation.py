import re

import pytest
from pydantic import TypeAdapter

from app.api.answers import MoslimAnswer, ObjectivesAnswer, ScoreAnswer, TokenizeAnswer
from app.api.problems import PROBLEMS
from app.api.service_answers import InfoAnswer, ProblemAnswer, StateAnswer
from app.api.trainers.llamafactory import ScoreEvaluationAnswer
from app.api.trainers.nim import ChatAnswer
from app.api.trainers.rerank import RerankAnswer
from app.api.trainers.slime import SlimeAnswer
from app.api.trainers.vllm import ClassifyAnswer, EmbeddingsAnswer, PoolingAnswer
from app.errors import StreamStalled
from tests.api.fake_engine import PLAIN, UNGATED, FakeEngine
from tests.api.serving import Served, serving

ANSWERS = {
    "/score": ScoreAnswer,
    "/objectives": ObjectivesAnswer,
    "/moslim-classify": MoslimAnswer,
    "/tokenize": TokenizeAnswer,
    "/get_reward": SlimeAnswer,
    "/v1/score/evaluation": ScoreEvaluationAnswer,
    "/classify": ClassifyAnswer,
    "/pooling": PoolingAnswer,
    "/v1/embeddings": EmbeddingsAnswer,
    "/v1/chat/completions": ChatAnswer,
    "/rerank": RerankAnswer,
    "/v1/rerank": RerankAnswer,
    "/v2/rerank": RerankAnswer,
}
TRAINER_PATHS = tuple(ANSWERS)[4:]
STRICT = ("ScoreBody", "ObjectivesBody", "MoslimBody", "TokenizeBody", "OpenRlhfBody", "SlimeBody")
"""Bodies of no other service: what they do not know is refused."""
FOREIGN = ("ScoreEvaluationBody", "ClassifyBody", "PoolingBody", "EmbeddingsBody", "ChatBody", "RerankBody")


def examples(served: Served) -> dict[str, object]:
    paths = served.client.get("/openapi.json").json()["paths"]
    return {
        path: operation["post"]["requestBody"]["content"]["application/json"]["example"]
        for path, operation in paths.items()
        if "post" in operation and "application/json" in operation["post"]["requestBody"]["content"]
    }


def options(served: Served, path: str) -> dict[str, str]:
    parameters = served.client.get("/openapi.json").json()["paths"][path]["post"]["parameters"]
    return {one["name"]: one["example"] for one in parameters if one["in"] == "query" and "example" in one}


def test_each_route_has_an_example_that_works_when_pasted(served: Served) -> None:
    assert set(examples(served)) == set(ANSWERS)
    for path, body in examples(served).items():
        response = served.post(path, body, params=options(served, path))
        assert response.status_code == 200, (path, response.text)
        TypeAdapter(ANSWERS[path]).validate_python(response.json(), strict=True)


@pytest.mark.parametrize("info", [UNGATED, PLAIN])
def test_examples_fit_other_weights_too(info: object) -> None:
    with serving(FakeEngine(info)) as running:  # type: ignore[arg-type]
        bodies = examples(running)
        assert running.post("/moslim-classify", bodies.pop("/moslim-classify")).status_code == 501
        for path, body in bodies.items():
            response = running.post(path, body, params=options(running, path))
            assert response.status_code == 200, (path, response.text)
            TypeAdapter(ANSWERS[path]).validate_python(response.json(), strict=True)


def test_answers_are_what_the_document_says(served: Served) -> None:
    body = {
        "items": [{"prompt": "a", "responses": ["b", "c"]}, {"prompt": "a", "responses": []}],
        "preferences": [{"length": 1}],
    }
    for path in ("/score", "/objectives"):
        TypeAdapter(ANSWERS[path]).validate_python(served.post(path, body).json(), strict=True)
    TypeAdapter(InfoAnswer).validate_python(served.client.get("/info").json(), strict=True)
    TypeAdapter(StateAnswer).validate_python(served.client.get("/readyz").json(), strict=True)
    TypeAdapter(ProblemAnswer).validate_python(served.post("/score", {"x": 1}).json(), strict=True)


def test_every_reference_resolves_and_every_option_is_described(served: Served) -> None:
    document = served.client.get("/openapi.json")
    schemas = document.json()["components"]["schemas"]
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', document.text))
    assert references <= set(schemas)
    for name in (*STRICT, *FOREIGN):
        for field, schema in schemas[name]["properties"].items():
            assert schema.get("description"), (name, field)
    assert {name for name in (*STRICT, *FOREIGN) if schemas[name].get("additionalProperties") is False} == set(STRICT)


def test_the_document_says_how_to_show_a_key_and_what_errors_look_like(served: Served) -> None:
    document = served.client.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key", "basic"}
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert "default" not in operation["responses"]
            for status, answer in operation["responses"].items():
                assert (status == "200") != ("application/problem+json" in answer["content"])


def test_every_kind_of_error_is_described_where_it_may_come_up(served: Served) -> None:
    paths = served.client.get("/openapi.json").json()["paths"]
    statuses = {
        path: [status for status in next(iter(operations.values()))["responses"] if status != "200"]
        for path, operations in paths.items()
    }
    scored = ["400", "401", "408", "413", "422", "429", "500", "503", "504"]
    assert statuses["/score"] == statuses["/objectives"] == statuses["/score/stream"] == scored
    assert statuses["/moslim-classify"] == sorted([*scored, "501"])
    assert statuses["/tokenize"] == ["400", "401", "408", "413", "422", "500", "501", "503"]
    for path in TRAINER_PATHS:
        assert statuses[path] == ["400", "401", "408", "413", "422", "500", "501", "503", "504"]
    assert statuses["/livez"] == statuses["/readyz"] == ["500", "503"]
    assert (statuses["/info"], statuses["/metrics"]) == (["401", "500", "503"], ["401", "500"])
    described = re.findall(r"`([a-z-]+)`", " ".join(map(str, paths["/get_reward"]["post"]["responses"].values())))
    described += re.findall(r"`([a-z-]+)`", " ".join(map(str, paths["/score"]["post"]["responses"].values())))
    kinds = {problem.type for error, problem in PROBLEMS.items() if error is not StreamStalled}
    assert kinds <= set(described)


def test_probes_are_said_to_need_no_key(served: Served) -> None:
    paths = served.client.get("/openapi.json").json()["paths"]
    open_paths = {
        path for path, operations in paths.items() if any(one.get("security") == [] for one in operations.values())
    }
    assert open_paths == {"/livez", "/readyz"}


@pytest.mark.parametrize("path", TRAINER_PATHS)
def test_the_options_in_a_trainers_url_are_described(served: Served, path: str) -> None:
    parameters = served.client.get("/openapi.json").json()["paths"][path]["post"]["parameters"]
    described = {one["name"]: one["description"] for one in parameters if one["in"] == "query"}
    assert set(described) == {"targets", "preference", "normalise", "template"}
    assert all(described.values())


def test_the_stream_is_described_with_an_example_that_works(served: Served) -> None:
    operation = served.client.get("/openapi.json").json()["paths"]["/score/stream"]["post"]
    described = {one["name"]: one["description"] for one in operation["parameters"]}
    assert set(described) == {"preference", "composite", "truncate", "priority", "X-Timeout-Ms", "X-Request-Id"}
    assert all(described.values())
    (content,) = operation["requestBody"]["content"].values()
    answer = served.client.post("/score/stream", content=content["example"])
    assert answer.json()["id"] == "a"
    assert set(operation["responses"]["200"]["content"]) == {answer.headers["content-type"]}


def test_the_page_needs_nobody_else(served: Served) -> None:
    page = served.client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "http://" not in page.text
    assert (
        "script-src" in page.headers["content-security-policy"]
        or "default-src 'self'" in (page.headers["content-security-policy"])
    )
    assert "<script>" not in page.text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) == 3
    for source in sources:
        asset = served.client.get(f"/{source}")
        assert asset.status_code == 200
        assert len(asset.content) > 50
    assert "SwaggerUIBundle" in served.client.get("/docs/swagger-ui-bundle.js").text
