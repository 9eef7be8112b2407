import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.fake_engine import NAN
from tests.api.serving import Served, serving, wait_until
from tests.api.streaming import raw_stream

ITEM = {"prompt": "Say something", "responses": ["aei? bcd", "b"]}
letters = st.text("aeiou?bcd \N{SNOWMAN}", max_size=8)
item_lines = st.builds(
    lambda prompt, responses, **names: json.dumps({"prompt": prompt, "responses": responses} | names).encode(),
    letters,
    st.lists(letters, min_size=1, max_size=3),
)
identified = st.builds(
    lambda one_id, response: json.dumps({"id": one_id, "prompt": "a", "response": response}).encode(),
    st.sampled_from(["twice", "b", 1, 2]),
    letters,
)
MALFORMED = [
    b"not json",
    b"{",
    b"[]",
    b"7",
    b"\xff\xfe",
    b'{"prompt": "\xff", "response": "b"}',
    b'{"prompt": "\\ud800", "response": "b"}',
    b'{"id": "\\udfff", "prompt": "a", "response": "b"}',
    b'{"prompt": "a", "response": "b", "id": NaN}',
    b'{"prompt": "a", "response": "b", "id": 1e999}',
    b'{"prompt": "a", "response": "b", "id": 99999999999999999999}',
    b'{"prompt": "a", "response": "b", "prompt": "c"}',
    b'{"prompt": "a", "response": "b", "truncate": "never"}',
    b'{"items": [{"prompt": "a", "response": "b"}]}',
    b"[" * 4000,
]
FAULTS = dict.fromkeys(MALFORMED, "malformed-body") | {
    b'{"prompt": "a", "responses": []}': "invalid-conversation",
    b'{"prompt": "' + b"a" * 999 + b'", "response": "b"}': "too-many-tokens",
    b'{"prompt": "' + b"a" * 5000 + b'", "response": "b"}': "body-too-large",
    f'{{"prompt": "a", "response": "{NAN}"}}'.encode(): "inference-failed",
}
bad_lines = st.sampled_from(list(FAULTS))
blank_lines = st.sampled_from([b"", b" ", b"\t \r"])
stream_lines = st.lists(st.one_of(item_lines, identified, bad_lines, blank_lines), max_size=12)


@pytest.fixture(scope="module")
def narrow() -> Any:
    """A server whose lines may have 4096 bytes."""
    with serving(max_body_bytes="4096") as running:
        yield running


def streamed(served: Served, content: bytes, query: str = "") -> list[dict[str, Any]]:
    response = served.client.post(f"/score/stream{query}", content=content)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return sorted(map(json.loads, response.content.splitlines()), key=lambda line: line["line"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stream_lines,
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(1, 200), min_size=1, max_size=5),
)
def test_every_line_is_answered_once_whatever_it_holds_and_however_it_comes(
    narrow: Served, lines: list[bytes], line_end: bytes, has_bom: bool, has_last_end: bool, sizes: list[int]
) -> None:
    content = (b"\xef\xbb\xbf" if has_bom else b"") + line_end.join(lines) + (line_end if has_last_end else b"")
    with raw_stream(narrow.port) as stream:
        start = 0
        for index in range(len(content)):
            size = sizes[index % len(sizes)]
            if start < len(content):
                stream.send(content[start : start + size])
            start += size
        stream.end()
        answers = stream.lines()
    due = {number: line for number, line in enumerate(lines, start=1) if line.strip()}
    assert sorted(answer["line"] for answer in answers) == list(due)
    for answer in answers:
        check_answer(narrow, due[answer["line"]], answer)


def check_answer(served: Served, line: bytes, answer: dict[str, Any]) -> None:
    """See that the answer is the line's own: its id, and its known fault or what /score says."""
    if line in FAULTS:
        assert answer["id"] == answer["line"]
        assert answer["error"]["type"] == FAULTS[line]
        return
    item = json.loads(line)
    assert answer["id"] == item.pop("id", answer["line"])
    (result,) = served.post("/score", item).json()["results"]
    assert answer["scores"] == pytest.approx(result.pop("scores"), abs=1e-6)
    assert {name: answer[name] for name in result} == result


class TestOptions:
    @pytest.mark.parametrize(
        ("query", "body"),
        [
            ("", {}),
            ("?preference=length:1", {"preferences": [{"length": 1}]}),
            (
                "?preference=length:1,talkative:-0.5&preference=curious:2&composite=curious=questions:1,vowels:0.5",
                {
                    "preferences": [{"length": 1, "talkative": -0.5}, {"curious": 2}],
                    "composites": {"curious": {"questions": 1, "vowels": 0.5}},
                },
            ),
            ("?truncate=prompt_left&priority=interactive", {"truncate": "prompt_left"}),
        ],
    )
    def test_they_mean_what_they_mean_to_score(self, served: Served, query: str, body: dict[str, Any]) -> None:
        item = ITEM | {"prompt": "a" * (500 if "truncate" in body else 5)}
        (result,) = served.post("/score", item | body).json()["results"]
        (answer,) = streamed(served, json.dumps(item).encode(), query)
        for name, values in result.items():
            exact = name in ("tokens", "truncated", "best", "preference_best")
            assert answer[name] == (values if exact else [pytest.approx(one, abs=1e-6) for one in values])
        assert answer["truncated"] is ("truncate" in body)

    @pytest.mark.parametrize(
        ("query", "detail"),
        [
            ("?preferences=length:1", "the query takes preference, composite, truncate, priority"),
            ("?truncate=always", "allowed are never, prompt_left"),
            ("?priority=now", "allowed are interactive, bulk"),
            ("?truncate=never&truncate=never", "given twice"),
            ("?preference=length", "allowed are name:weight,name:weight"),
            ("?preference=length:0", "zero"),
            ("?composite=a", "allowed are name:weight,name:weight"),
            ("?composite==length:1", "allowed are name=objective:weight"),
            ("?composite=a=length:1&composite=a=length:2", "names 'a' twice"),
            ("&".join(["?preference=length:1"] + ["preference=length:1"] * 256), "more than 256 times"),
        ],
    )
    def test_a_wrong_one_is_told_before_anything_is_read(self, served: Served, query: str, detail: str) -> None:
        response = served.client.post(f"/score/stream{query}", content=b"not json\n")
        assert (response.status_code, response.json()["type"]) == (422, "malformed-body")
        assert detail in response.json()["detail"]

    def test_names_that_these_weights_do_not_have(self, served: Served) -> None:
        response = served.client.post("/score/stream?preference=lenght:1", content=b"")
        assert (response.status_code, response.json()["type"]) == (400, "unknown-name")

    def test_weights_without_a_scalar_need_a_preference(self, ungated: Served) -> None:
        response = ungated.client.post("/score/stream", content=b"")
        assert (response.status_code, response.json()["type"]) == (400, "preference-required")
        assert "?preference=name:weight" in response.json()["detail"]
        (answer,) = streamed(ungated, json.dumps(ITEM).encode(), "?preference=length:2")
        assert answer["scores"] == pytest.approx([0.08, 0.01])

    def test_nobody_waits_for_a_streams_every_line(self, served: Served) -> None:
        def served_as(priority: str) -> float:
            return served.metric("armoserve_queue_seconds_count", priority=priority)

        bulk, interactive = served_as("bulk"), served_as("interactive")
        streamed(served, json.dumps(ITEM).encode())
        streamed(served, json.dumps(ITEM).encode(), "?priority=interactive")
        assert (served_as("bulk") - bulk, served_as("interactive") - interactive) == (2, 2)


class TestTheRestOfTheRequest:
    def test_keys_ids_and_metrics_are_those_of_every_route(self) -> None:
        with serving(api_keys="sesame") as running:
            assert running.client.post("/score/stream", content=b"").status_code == 401
            headers = {"X-API-Key": "sesame", "X-Request-Id": "run-7"}
            response = running.client.post("/score/stream", content=json.dumps(ITEM), headers=headers)
            assert response.headers["x-request-id"] == "run-7"

            def count(status: str) -> float:
                return running.metric("armoserve_requests_total", route="/score/stream", status=status)

            wait_until(lambda: count("200") == 1)  # a request is counted once it has ended, after its last byte
            assert count("401") == 1

    @pytest.mark.parametrize("headers", [{"X-Timeout-Ms": "soon"}, {"Content-Encoding": "gzip"}])
    def test_headers_are_read_before_the_stream_begins(self, served: Served, headers: dict[str, str]) -> None:
        assert served.client.post("/score/stream", content=b"", headers=headers).status_code == 422

    def test_nothing_in_is_nothing_out(self, served: Served) -> None:
        assert streamed(served, b"") == streamed(served, b"\n \n\r\n") == []

    def test_no_text_of_a_line_is_in_an_error(self, served: Served) -> None:
        for line in (b'{"xyzzy plugh": 1}', b"xyzzy plugh", b'{"prompt": "xyzzy plugh"}'):
            assert "plugh" not in json.dumps(streamed(served, line))

    def test_what_nobody_foresaw_is_that_lines_error(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with serving() as running:
            assert running.state.model is not None
            monkeypatch.setattr(running.state.model.service, "score", None)
            answers = streamed(running, json.dumps(ITEM).encode() + b"\nnot json")
        assert [answer["error"]["type"] for answer in answers] == ["internal-error", "malformed-body"]
        assert "TypeError" in caplog.text


def test_a_stream_names_its_model_before_its_first_line(served: Served) -> None:
    revision = served.client.get("/info").json()["model"]["revision"]
    scored = served.post("/score", ITEM).json()["model"]["revision"]
    with raw_stream(served.port) as stream:
        stream.send_item(id=1)
        assert stream.answer.headers["X-Model-Revision"] == revision == scored
        stream.end()
