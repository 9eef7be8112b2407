"""Whatever JSON stands where targets belong, the answer is 200 or a problem that says why, and never a wrong reward.

An oracle of a few lines says which; the documents are written as text, so that names may stand twice and numbers may
be none.
"""

import json
import math
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.api.fake_engine import HEADS
from tests.api.serving import Served

CLASSES = {head.name: head.classes for head in HEADS}
SPELLINGS = {name: name for name in CLASSES} | {"harmlessness": "harmless"}
PROBLEMS = {"malformed-body": 422, "unknown-name": 400, "invalid-conversation": 400}
OK, MALFORMED = "", "malformed-body"
WRONG_NAMES = {"unknown-name", "invalid-conversation"}
fuzzed = settings(max_examples=100, deadline=None)

names = st.sampled_from((*CLASSES, "harmlessness", "Harmless", "HELPFULNESS", "honesty", "prefix", "max", "", "\ud800"))
numbers = st.sampled_from(
    (
        "0",
        "-0",
        "-1",
        "1.0",
        "2.0",
        "5.0",
        "1e0",
        "2E0",
        "0.5",
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "9" * 25,
        "9" * 999,
    )
)
levels = st.integers(-1, 4).map(str) | st.just('"max"')
leaves = st.one_of(
    st.sampled_from(
        ("null", "true", "false", '"prefix"', '"Prefix"', '"max"', '"MAX"', '"1"', '"\\ud800"', "{}", "[]")
    ),
    numbers,
    levels,
    st.integers().map(str),
    st.text(max_size=5).map(json.dumps),
)


def written_object(members: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in members) + "}"


def objects_of(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(names | st.text(max_size=4), values), max_size=4).map(written_object)


sensible = st.lists(st.tuples(st.sampled_from([*SPELLINGS, "Harmless"]), levels), max_size=3).map(written_object)
documents = st.one_of(
    sensible,
    st.recursive(
        leaves,
        lambda values: objects_of(values) | st.lists(values, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        max_leaves=6,
    ),
)


class Members(list[tuple[str, Any]]):
    """An object's members, in order, names that stand twice included."""


def expected_types(document: str) -> set[str]:
    """Return which problem types targets may be answered with; `OK` stands for the status 200."""
    targets = json.loads(document, object_pairs_hook=Members)
    if not is_sound(targets):
        return {MALFORMED}
    if not isinstance(targets, Members):
        return {OK} if targets in (None, "prefix") else {MALFORMED}
    if any(level != "max" and type(level) is not int for _, level in targets):
        return {MALFORMED}
    heads = [SPELLINGS.get(name.lower()) for name, _ in targets]
    if None in heads or len(set(heads)) < len(heads):
        return WRONG_NAMES
    fits = all(level == "max" or 1 <= level <= CLASSES[head] for head, (_, level) in zip(heads, targets, strict=True))
    return {OK} if fits else {"unknown-name"}


def is_sound(value: Any) -> bool:
    """Say whether a value is JSON that means something: its integers have 64 bits, its names are names and differ."""
    if isinstance(value, Members):
        own = [name for name, _ in value]
        return len(set(own)) == len(own) and all(map(is_sound, own)) and all(is_sound(one) for _, one in value)
    if isinstance(value, list):
        return all(map(is_sound, value))
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return type(value) is not int or -(2**63) <= value < 2**63  # a float, or what is none, is no level anyhow


def post(served: Served, route: str, content: str) -> tuple[str, Any]:
    """Return the type of the problem (`OK` where there is none) and the answer, having checked its form."""
    response = served.client.post(route, content=content.encode())
    assert "NaN" not in response.text.replace("NaN is not a JSON number", "")
    answer = response.json()
    if response.status_code == 200:
        return OK, answer
    assert PROBLEMS.get(answer["type"]) == response.status_code == answer["status"], answer
    assert response.headers["content-type"] == "application/problem+json"
    assert answer["detail"]
    return answer["type"], answer


def check_result(result: Any) -> None:
    """Hold a classified item to what it may say: targets are levels of heads, and rewards are there for targets."""
    targets = result["targets"] or {}
    assert all(1 <= level <= CLASSES[name] for name, level in targets.items())
    for response in result["responses"]:
        assert (response["reward"] is not None) == bool(targets)
        assert response["reward"] is None or math.isfinite(response["reward"])
        assert response["heads"].keys() == CLASSES.keys()


@fuzzed
@given(document=documents)
@example(document='{"harmless": 2.0}')
@example(document='{"harmless": true}')
@example(document='{"harmless": 1, "harmless": 1}')
@example(document='{"harmless": 1, "Harmlessness": 1}')
@example(document='{"harmless": ' + "[" * 500 + "]" * 500 + "}")
def test_targets_of_the_request(served: Served, document: str) -> None:
    content = f'{{"prompt": "Hi", "responses": ["a", "bc"], "targets": {document}}}'
    problem, answer = post(served, "/moslim-classify", content)
    assert problem in expected_types(document)
    if problem == OK:
        check_result(answer["results"][0])


@fuzzed
@given(own=documents, shared=documents)
def test_targets_of_an_item_are_at_fault_alone_where_they_can_be_read(served: Served, own: str, shared: str) -> None:
    items = f'[{{"prompt": "Hi", "response": "a", "targets": {own}}}, {{"prompt": "Hi", "response": "bc"}}]'
    problem, answer = post(served, "/moslim-classify", f'{{"items": {items}, "targets": {shared}}}')
    if MALFORMED in expected_types(own) | expected_types(shared):
        assert problem == MALFORMED
        return
    assert problem == OK
    for document, result in zip((shared if own == "null" else own, shared), answer["results"], strict=True):
        assert result.get("error", {"type": OK})["type"] in expected_types(document)
        if "error" not in result:
            check_result(result)


@fuzzed
@given(document=documents)
def test_tokenize_takes_the_prefix_and_no_levels(served: Served, document: str) -> None:
    problem, _ = post(served, "/tokenize", f'{{"prompt": "Hi", "response": "a", "targets": {document}}}')
    assert (problem == OK) == (document in ('"prefix"', "null"))
    assert problem in (OK, MALFORMED)


tags = st.tuples(names, st.sampled_from(("0", "1", "2", "3", "max", "1.0", "9" * 50, "x"))).map(
    lambda tag: f"<{tag[0]} {tag[1]}>"
)
pieces = st.lists(tags | st.sampled_from((" ", "Hi", "<b>", "\0", "\n")), max_size=5).map("".join)


@fuzzed
@given(system=st.none() | pieces, prompt=pieces, response=pieces)
def test_prefixes_of_any_kind(served: Served, system: str | None, prompt: str, response: str) -> None:
    turns = [{"role": "user", "content": prompt}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    content = json.dumps({"prompt": turns, "response": response, "targets": "prefix"})
    problem, answer = post(served, "/moslim-classify", content)
    if problem == OK:
        check_result(answer["results"][0])
    else:
        assert "<" not in answer["detail"], "the text of a prompt is not shown"
        assert problem in WRONG_NAMES or "lone surrogate" in answer["detail"]
