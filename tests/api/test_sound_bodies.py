"""Every body that makes sense is taken, on every route; and one with anything wrong in it ends in a clear error."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.documentation import BODIES
from tests.api.fake_engine import FAIL, HOLD, NAN, POISON
from tests.api.serving import Served

SECRET = "xyzzy plugh"
"""In every text; with its blank it reads like no name, so no error may show it anywhere."""
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
characters = st.characters(exclude_categories=["Cs"], exclude_characters=FAIL + NAN + HOLD + POISON)
texts = st.text(characters, max_size=10).map(SECRET.__add__)
names = st.sampled_from(["length", "vowels", "questions", "talkative"])
weights = st.floats(0.01, 1e6)
directions = st.dictionaries(names, weights, min_size=1)
heads = st.fixed_dictionaries(
    {}, optional={"helpfulness": st.integers(1, 3), "harmless": st.sampled_from([1, 2, "max"])}
)
integers = st.integers(-(2**63), 2**63 - 1)  # a longer one is refused, wherever it stands
junk = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, str]]:
    roles = ["system"] * draw(st.integers(0, 1)) + ["user", "assistant"] * draw(st.integers(0, 2)) + ["user"]
    return [{"role": role, "content": draw(texts)} for role in roles]


def answered(conversation: list[dict[str, str]], response: str) -> list[dict[str, str]]:
    return [*conversation, {"role": "assistant", "content": response}]


prompts = texts | turns()
responses = st.lists(texts, min_size=1, max_size=3)
messages = st.builds(answered, turns(), texts)
items = st.one_of(
    st.fixed_dictionaries({"prompt": prompts, "responses": responses}),
    st.fixed_dictionaries({"prompt": prompts, "response": texts}),
    st.fixed_dictionaries({"messages": messages}),
)


def body_of(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    bodies = items | st.fixed_dictionaries({"items": st.lists(items, max_size=3)})
    truncation = {"truncate": st.sampled_from(["never", "prompt_left"])}
    return st.builds(dict.__or__, bodies, st.fixed_dictionaries({}, optional=truncation | options))


priority = st.sampled_from(["interactive", "bulk"])
reranked = st.fixed_dictionaries({"query": prompts, "documents": responses}, optional={"top_n": st.integers(0, 5)})
spoken = st.fixed_dictionaries({"messages": messages}, optional={"model": texts})
rendered = st.builds("<user>{}<assistant>{}".format, texts, texts)
SOUND: dict[str, st.SearchStrategy[Any]] = {
    "/score": body_of(preferences=st.lists(directions, max_size=3), priority=priority),
    "/objectives": body_of(preferences=st.lists(directions, max_size=1), top_k=st.integers(1, 5)),
    "/moslim-classify": body_of(targets=heads, priority=priority),
    "/tokenize": body_of(),
    "/get_reward": st.fixed_dictionaries({"prompt": prompts, "response": texts}, optional={"label": junk}),
    "/v1/score/evaluation": st.fixed_dictionaries({"messages": st.lists(rendered, min_size=1, max_size=3)}),
    **dict.fromkeys(("/classify", "/pooling", "/v1/embeddings", "/v1/chat/completions"), spoken),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), reranked),
}
QUERIES = {"/get_reward": "?template=raw"}
"""slime's prompt may be any text: one of no template."""


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every part of a body but the body itself."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in parts for found in [(*way, key), *places(part, (*way, key))]]


def put(value: Any, way: tuple[Any, ...], part: Any) -> Any:
    if not way:
        return part
    copy = value.copy()
    copy[way[0]] = put(value[way[0]], way[1:], part)
    return copy


def test_every_route_has_its_bodies() -> None:
    assert set(SOUND) == set(BODIES)


@pytest.mark.parametrize("path", SOUND)
@given(data=st.data())
@FEW
def test_a_body_that_makes_sense_is_taken(served: Served, path: str, data: st.DataObject) -> None:
    body = data.draw(SOUND[path])
    answer = served.post(path + QUERIES.get(path, ""), body)
    assert answer.status_code == 200, (body, answer.text)
    assert not [one for one in answer.json().get("results", ()) if "error" in one]


@pytest.mark.parametrize("path", SOUND)
@given(data=st.data())
@FEW
def test_a_body_with_anything_in_it_ends_in_an_answer_or_a_clear_error(
    served: Served, path: str, data: st.DataObject
) -> None:
    body = data.draw(SOUND[path])
    broken = put(body, data.draw(st.sampled_from(places(body))), data.draw(junk))
    answer = served.post(path + QUERIES.get(path, ""), broken)
    assert answer.status_code in (200, 400, 413, 422), (broken, answer.text)
    if answer.status_code != 200:
        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["detail"]
        assert SECRET not in answer.text
