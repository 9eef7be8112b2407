"""Bad input ends in the right status and problem type, names what was wrong, shows no text, and harms nothing."""

import gzip
import json
from typing import Any

import pytest
from fastapi import Request

from app.api.dependencies import deadline_of
from app.api.documentation import TRAINER_BODIES
from app.api.strict_json import parse_json
from tests.api.bad_trainer_bodies import BAD_TRAINER_BODIES
from tests.api.fake_engine import FAIL, HOLD, NAN
from tests.api.serving import Served

SECRET = "xyzzy-plugh"
GOOD = {"prompt": "Say something", "response": "aei? bcd"}


def item(**changes: Any) -> dict[str, Any]:
    return {"prompt": SECRET, "response": SECRET, **changes}


def turn(role: str, content: Any = SECRET) -> dict[str, Any]:
    return {"role": role, "content": content}


MALFORMED = (422, "malformed-body")
CONVERSATION = (400, "invalid-conversation")
UNKNOWN = (400, "unknown-name")

BAD_BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "not json": (b"hello", "not JSON"),
    "cut short": (b'{"prompt": "x", "respon', "not JSON"),
    "two documents": (b'{"prompt": "x", "response": "y"} {}', "not JSON"),
    "trailing comma": (b'{"prompt": "x", "response": "y",}', "not JSON"),
    "single quotes": (b"{'prompt': 'x'}", "not JSON"),
    "a comment": (b'{"prompt": "x" /* y */}', "not JSON"),
    "a control character": (b'{"prompt": "x\x01", "response": "y"}', "not JSON"),
    "utf-16": ('{"prompt": "x", "response": "y"}'.encode("utf-16"), "UTF-8"),
    "not utf-8": (b'{"prompt": "\xff\xfe", "response": "y"}', "UTF-8"),
    "a surrogate in utf-8": (b'{"prompt": "\xed\xa0\x80", "response": "y"}', "UTF-8"),
    "a list": (b"[]", "must be a JSON object"),
    "null": (b"null", "must be a JSON object"),
    "a string": (b'"prompt"', "must be a JSON object"),
    "a name twice": (b'{"prompt": "x", "prompt": "y", "response": "z"}', "'prompt' is given twice"),
    "a text as a name twice": (b'{"xyzzy-plugh !": 1, "xyzzy-plugh !": 2}', "a name that is not shown is given twice"),
    "a name twice inside": (b'{"messages": [{"role": "user", "role": "user"}]}', "'role' is given twice"),
    "a lone surrogate": (b'{"prompt": "\\ud800", "response": "y"}', "prompt: the text holds a lone surrogate"),
    "a lone surrogate in a response": (b'{"prompt": "x", "responses": ["a", "\\udc00"]}', "responses[1]"),
    "a lone surrogate in a turn": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content"),
    "a lone surrogate as a name": (b'{"\\ud800": 1}', "lone surrogate"),
    "a lone surrogate as a name twice": (b'{"\\ud800": 1, "\\ud800": 2}', "given twice"),
    "NaN": (b'{"prompt": "x", "response": "y", "preferences": [{"length": NaN}]}', "preferences[0].length: NaN is"),
    "infinity": (
        b'{"prompt": "x", "response": "y", "preferences": [{}, {"length": -Infinity}]}',
        "preferences[1].length: -Inf",
    ),
    "1e999": (b'{"prompt": "x", "response": "y", "preferences": [{"length": 1e999}]}', "preferences[0].length: "),
    "no number at all": (b"NaN", "body: NaN is not a JSON number"),
    "a number too deep": (b"[" * 900 + b"NaN" + b"]" * 900, "NaN is not a JSON number"),
    "compressed": (gzip.compress(b'{"prompt": "x", "response": "y"}'), "content encodings such as gzip"),
    "a huge integer": (b'{"prompt": "x", "response": "y", "top_k": 99999999999999999999}', "64 bits"),
    "an integer that is too small by one": (
        b'{"prompt": "x", "response": "y", "top_k": -9223372036854775809}',
        "64 bits",
    ),
    "an endless integer": (b'{"prompt": "x", "response": "y", "top_k": ' + b"9" * 5000 + b"}", "64 bits"),
    "an endless fraction": (b'{"preferences": [{"length": 0.' + b"1" * 5000 + b"}]}", "too large or too long"),
    "deep nesting": (b"[" * 100_000, "nested too deeply"),
}

OF_NATIVE_FIELDS = {"a lone surrogate", "a lone surrogate in a response", "a lone surrogate in a turn"}
"""Those in which a field of the native routes is at fault, and not the JSON."""

BAD_BODIES: dict[str, tuple[Any, tuple[int, str], str]] = {
    "no items": ({"items": None}, MALFORMED, "a body has items or is one item; an item is {prompt, responses}"),
    "no field": ({}, MALFORMED, "an item is {prompt, responses}, {prompt, response} or {messages}"),
    "no response": ({"prompt": SECRET}, MALFORMED, "this one has prompt"),
    "no prompt": ({"responses": [SECRET]}, MALFORMED, "this one has responses"),
    "response and responses": (item(responses=[SECRET]), MALFORMED, "prompt and responses and response"),
    "prompt and messages": (item(messages=[turn("user")]), MALFORMED, "prompt and response and messages"),
    "items and a field": ({"items": [], "prompt": SECRET}, MALFORMED, "prompt stands beside items"),
    "an unknown field": (item(temperature=1), MALFORMED, "temperature: there is no such field"),
    "an unknown field of an item": ({"items": [item(truncate="never")]}, MALFORMED, "items[0].truncate"),
    "an unknown field of a turn": (
        {"messages": [turn("user") | {"text": SECRET}]},
        MALFORMED,
        "messages[0].text: there is no such field",
    ),
    "a number as prompt": (item(prompt=7), MALFORMED, "prompt: "),
    "an object as prompt": (item(prompt={"text": SECRET}), MALFORMED, "prompt: "),
    "a number as response": (item(response=7), MALFORMED, "response: "),
    "a response that is null": ({"prompt": SECRET, "responses": [None]}, MALFORMED, "responses[0]"),
    "a text as responses": ({"prompt": SECRET, "responses": SECRET}, MALFORMED, "responses: "),
    "a text as items": ({"items": SECRET}, MALFORMED, "items: "),
    "a text as an item": ({"items": [GOOD, SECRET]}, MALFORMED, "items[1]: "),
    "a text as a turn": ({"messages": [SECRET]}, MALFORMED, "messages[0]: input should be an object"),
    "a text as a direction": (item(preferences=[SECRET]), MALFORMED, "preferences[0]: input should be an object"),
    "a text as the name of a field": (item(**{f"{SECRET} is": 1}), MALFORMED, "a field with a name that is not shown"),
    "a text as the name of a weight": (
        item(preferences=[{f"{SECRET} is": "1"}]),
        MALFORMED,
        "preferences[0].a field with a name that is not shown: ",
    ),
    "a text as an objective": (item(preferences=[{f"{SECRET} is": 1}]), UNKNOWN, "a name that is not shown"),
    "an unknown role": ({"messages": [turn("tool"), turn("assistant")]}, MALFORMED, "messages[0].role: "),
    "a turn without content": ({"messages": [{"role": "user"}]}, MALFORMED, "messages[0].content: "),
    "parts as content": (
        {"messages": [turn("user", [{"type": "text", "text": SECRET}])]},
        MALFORMED,
        "messages[0].content: ",
    ),
    "too many items": ({"items": [GOOD] * 65}, MALFORMED, "items holds 65 items; at most 64"),
    "an unknown truncation": (item(truncate="right"), MALFORMED, "truncate: "),
    "an unknown priority": (item(priority="urgent"), MALFORMED, "priority: "),
    "preferences as an object": (item(preferences={"length": 1}), MALFORMED, "preferences: "),
    "a weight as text": (item(preferences=[{"length": "1"}]), MALFORMED, "preferences[0].length: "),
    "a weight as truth": (item(preferences=[{"length": True}]), MALFORMED, "preferences[0].length: "),
    "a weight that would overflow": (
        item(preferences=[{"new": 1}], composites={"new": {"length": 1e200}}),
        MALFORMED,
        "composites.new.length: ",
    ),
    "too many directions": (item(preferences=[{"length": 1}] * 257), MALFORMED, "preferences: "),
    "a weight that is too large": (item(preferences=[{"length": 1e101}]), MALFORMED, "less than or equal to 1e+100"),
    "an empty direction": (item(preferences=[{}]), MALFORMED, "preferences[0]: a preference direction is zero"),
    "a zero direction": (item(preferences=[{"length": 1}, {"length": 0}]), MALFORMED, "preferences[1]: "),
    "an unknown objective": (item(preferences=[{"lenght": 1}]), UNKNOWN, "length, vowels, questions, talkative"),
    "an unknown objective in a composite": (item(composites={"new": {"lenght": 1}}), UNKNOWN, "'lenght'"),
    "a composite that hides an objective": (item(composites={"length": {"vowels": 1}}), MALFORMED, "'length'"),
    "vLLM's pair of texts": ({"text_1": SECRET, "text_2": [SECRET], "model": "m"}, MALFORMED, "text_1 and text_2: "),
    "vLLM's pair of data": ({"data_1": SECRET, "data_2": SECRET}, MALFORMED, "pairs of texts, which /rerank takes"),
    "vLLM's queries and documents": ({"queries": SECRET, "documents": [SECRET]}, MALFORMED, "which /rerank takes"),
    "vLLM's queries and items": ({"queries": [SECRET], "items": [SECRET]}, MALFORMED, "which /rerank takes"),
    "vLLM's text and documents": ({"text_1": SECRET, "documents": [SECRET]}, MALFORMED, "which /rerank takes"),
    "a rerank body": ({"query": SECRET, "documents": [SECRET]}, MALFORMED, "which /rerank takes (query, documents)"),
    "no turn": ({"messages": []}, CONVERSATION, "the last message must be the assistant's"),
    "no response in turns": ({"messages": [turn("user")]}, CONVERSATION, "the last message must be the assistant's"),
    "only a response": ({"messages": [turn("assistant")]}, CONVERSATION, "must end with a user message"),
    "no responses": ({"prompt": SECRET, "responses": []}, CONVERSATION, "no response"),
    "an empty prompt of turns": (item(prompt=[]), CONVERSATION, "must end with a user message"),
    "a prompt that ends with the assistant": (
        item(prompt=[turn("user"), turn("assistant")]),
        CONVERSATION,
        "must end with a user message",
    ),
    "two users in a row": (item(prompt=[turn("user"), turn("user")]), CONVERSATION, "prompt message 1"),
    "a late system": (item(prompt=[turn("user"), turn("system"), turn("user")]), CONVERSATION, "prompt message 1"),
    "too long": (item(prompt=SECRET * 100), (413, "too-many-tokens"), "the limit is 400"),
    "too long to be truncated": (
        item(response=SECRET * 100, truncate="prompt_left"),
        (413, "too-many-tokens"),
        "the limit is 400",
    ),
}

BAD_OPTIONS: dict[str, tuple[str, Any, tuple[int, str], str]] = {
    "top_k of none": ("/objectives", item(top_k=0), MALFORMED, "top_k: "),
    "top_k of a half": ("/objectives", item(top_k=1.5), MALFORMED, "top_k: "),
    "top_k of another route": ("/score", item(top_k=1), MALFORMED, "top_k: there is no such field"),
    "targets of another route": ("/score", item(targets="prefix"), MALFORMED, "targets: there is no such field"),
    "an unknown word for targets": ("/moslim-classify", item(targets="all"), MALFORMED, "targets: "),
    "a level as text": ("/moslim-classify", item(targets={"harmless": "2"}), MALFORMED, "targets.harmless: a level is"),
    "a level as a half": ("/moslim-classify", item(targets={"harmless": 1.5}), MALFORMED, "number from 1, or 'max'"),
    "a level as truth": ("/moslim-classify", item(targets={"harmless": True}), MALFORMED, "number from 1, or 'max'"),
    "a level as a list": ("/moslim-classify", item(targets={"harmless": [1]}), MALFORMED, "number from 1, or 'max'"),
    "a head in two spellings": (
        "/moslim-classify",
        item(targets={"harmless": 1, "harmlessness": 2}),
        CONVERSATION,
        "harmless twice",
    ),
    "an unknown head": ("/moslim-classify", item(targets={"honesty": 1}), UNKNOWN, "helpfulness, harmless"),
    "a level of 0": ("/moslim-classify", item(targets={"harmless": 0}), UNKNOWN, "harmless takes 1 to 2, or max"),
    "a level too high": ("/moslim-classify", item(targets={"harmless": 3}), UNKNOWN, "harmless takes 1 to 2, or max"),
    "an unknown head in a prefix": (
        "/moslim-classify",
        item(prompt=f"<kindness 2>{SECRET}", targets="prefix"),
        UNKNOWN,
        "helpfulness 1 to 3, harmless 1 to 2",
    ),
    "targets for tokens": ("/tokenize", item(targets={"harmless": 1}), MALFORMED, "targets: "),
}


def check(served: Served, response: Any, expected: tuple[int, str], words: str) -> None:
    problem = response.json()
    assert (response.status_code, problem["type"], problem["status"]) == (*expected, expected[0])
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["title"]
    assert words in problem["detail"]
    assert SECRET not in response.text
    (result,) = served.post("/score", GOOD).json()["results"]
    assert result["tokens"] == {"prompt": 30, "responses": [9]}


@pytest.mark.parametrize("name", BAD_BYTES)
@pytest.mark.parametrize("route", ["/score", "/objectives", "/moslim-classify", "/tokenize"])
def test_what_is_not_json(served: Served, route: str, name: str) -> None:
    content, words = BAD_BYTES[name]
    check(served, served.client.post(route, content=content), MALFORMED, words)


@pytest.mark.parametrize("name", [name for name in BAD_BYTES if name not in OF_NATIVE_FIELDS])
@pytest.mark.parametrize("route", sorted(TRAINER_BODIES))
def test_what_is_not_json_for_trainers(served: Served, route: str, name: str) -> None:
    content, words = BAD_BYTES[name]
    check(served, served.client.post(route, content=content), MALFORMED, words)


@pytest.mark.parametrize("name", BAD_BODIES)
def test_what_does_not_fit(served: Served, name: str) -> None:
    body, expected, words = BAD_BODIES[name]
    check(served, served.post("/score", body), expected, words)


@pytest.mark.parametrize("name", BAD_OPTIONS | BAD_TRAINER_BODIES)
def test_options_and_trainers_bodies_that_do_not_fit(served: Served, name: str) -> None:
    route, body, expected, words = (BAD_OPTIONS | BAD_TRAINER_BODIES)[name]
    check(served, served.client.post(route, content=json.dumps(body)), expected, words)


def test_every_trainer_route_is_in_the_table() -> None:
    assert {route for route, *_ in BAD_TRAINER_BODIES.values()} == set(TRAINER_BODIES) - {"/get_reward"}


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e3", "", "0.0", "1_000", "99999999999"])
def test_a_wrong_deadline(served: Served, value: str) -> None:
    response = served.post("/score", GOOD, headers={"X-Timeout-Ms": value})
    check(served, response, MALFORMED, "X-Timeout-Ms must be a number of milliseconds above 0")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/score", 405),
        ("PUT", "/score", 405),
        ("POST", "/livez", 405),
        ("GET", "/nothing", 404),
        ("POST", "/score/", 404),
    ],
)
def test_wrong_routes_and_methods(served: Served, method: str, path: str, status: int) -> None:
    check(served, served.client.request(method, path), (status, "about:blank"), "")


def test_the_fields_at_fault_are_listed(served: Served) -> None:
    problem = served.post("/score", item(temperature=1, truncate="right", priority="urgent")).json()
    assert {fault["field"] for fault in problem["errors"]} == {"temperature", "truncate", "priority"}


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "body"), ({"items": None}, "body"), (item(preferences=[{"length": 0}]), "preferences[0]")],
)
def test_no_fault_is_without_a_field(served: Served, body: dict[str, Any], field: str) -> None:
    assert [fault["field"] for fault in served.post("/score", body).json()["errors"]] == [field]


def test_a_number_that_is_none_is_named_among_the_errors(served: Served) -> None:
    problem = served.client.post("/score", content=b'{"composites": {"new": {"length": 1e999}}}').json()
    assert [fault["field"] for fault in problem["errors"]] == ["composites.new.length"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_content_encodings_are_not_supported(served: Served, encoding: str) -> None:
    response = served.post("/score", GOOD, headers={"Content-Encoding": encoding})
    check(served, response, MALFORMED, "content encodings are not supported")
    assert served.post("/score", GOOD, headers={"Content-Encoding": "Identity"}).status_code == 200


def test_a_byte_order_mark_is_passed_over(served: Served) -> None:
    marked = served.client.post("/score", content=b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert marked.json()["results"] == served.post("/score", GOOD).json()["results"]


def test_white_space_around_a_deadline_is_no_part_of_it() -> None:
    headers = [(b"x-timeout-ms", b" 60000\t")]
    assert deadline_of(Request({"type": "http", "headers": headers})) is not None


def test_long_names_are_cut_and_lists_of_faults_bounded(served: Served) -> None:
    body = item(**{f"{index}" + "n" * 5000: 1 for index in range(100)})
    problem = served.post("/score", body).json()
    assert len(problem["errors"]) == 10
    assert max(len(fault["field"]) for fault in problem["errors"]) <= 32


def test_a_failing_pack_is_an_error_of_its_own_requests(served: Served) -> None:
    for letter in (FAIL, NAN):
        response = served.post("/score", item(response=letter))
        check(served, response, (500, "inference-failed"), "")


def test_a_large_body_is_parsed_aside_and_just_as_strictly(served: Served) -> None:
    padding = " " * 300_000
    good = json.dumps(GOOD) + padding
    assert served.client.post("/score", content=good).status_code == 200
    check(served, served.client.post("/score", content=good + "x"), MALFORMED, "not JSON")


def test_the_hold_letter_is_not_in_the_tables() -> None:
    """Whoever adds a row with it would wait for the watchdog."""
    assert json.dumps(HOLD)[1:-1] not in json.dumps(
        [*BAD_BODIES.values(), *BAD_OPTIONS.values(), *BAD_TRAINER_BODIES.values()]
    )


def test_every_integer_of_64_bits_is_taken() -> None:
    assert parse_json(b"[-9223372036854775808, 9223372036854775807]") == [-(2**63), 2**63 - 1]
