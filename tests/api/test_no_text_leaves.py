"""What callers write stays between them and the model: marked texts through every route and every way to fail.

No log line above DEBUG, nor any error, may hold the mark, in whatever form it was sent.
"""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from app.api.documentation import BODIES
from app.api.examples import examples_for
from app.api.logs import QUIET_LOGGERS, JsonFormatter, TextFormatter
from app.domain import Item, TokenizedItem, Truncation
from app.engine import Engine
from tests.api.fake_engine import FAIL, GATED, NAN, FakeEngine, encode, render
from tests.api.serving import Served, serving, wait_until

MARK = "Quokka zebra 7319"
CODED = ("Quokka%20zebra", "Quokka+zebra", "UXVva2thIHplYnJh", "51756f6b6b61")
"""As URLs, base64 and hexadecimal digits would show it."""
BREAK = "\N{HIGH VOLTAGE SIGN}"
WORDS = frozenset({"role", "model"})
ROUTES = [*BODIES, "/score/stream"]


class QuotingEngine(FakeEngine):
    """An engine whose stray errors quote the text, as errors of libraries do."""

    def engine(self) -> Engine:
        def quoting(item: Item, truncation: Truncation = "never") -> TokenizedItem:
            if BREAK in item.responses[0]:
                raise ValueError(f"cannot read {item.responses[0]!r}")
            return encode(item, truncation)

        return Engine(self.info, quoting, quoting, self.forward, render)


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    with serving(QuotingEngine(), api_keys="first-key") as running:
        running.client.headers["X-API-Key"] = "first-key"
        yield running


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Everything that is logged above DEBUG, in both formats."""
    written, root = io.StringIO(), logging.getLogger()
    handlers = [logging.StreamHandler(written), logging.StreamHandler(written)]
    for handler, formatter in zip(handlers, (JsonFormatter(), TextFormatter()), strict=True):
        handler.setFormatter(formatter)
        handler.addFilter(lambda record: record.name.split(".")[0] not in QUIET_LOGGERS)  # the test's own client
        root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    yield written
    root.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


def marked(value: Any, text: str) -> Any:
    """Put a text wherever a body has one."""
    if isinstance(value, dict):
        return {name: part if name in WORDS else marked(part, text) for name, part in value.items()}
    if isinstance(value, list):
        return [marked(part, text) for part in value]
    return text if isinstance(value, str) else value


def body_of(route: str, text: str) -> dict[str, Any]:
    if route == "/v1/score/evaluation":
        return {"model": MARK, "messages": [f"<user>{text}<assistant>{text}"]}
    example = examples_for(GATED)["/score" if route == "/score/stream" else route]
    return marked(example, text)  # type: ignore[no-any-return]


def holds_mark(text: str) -> bool:
    return any(one.lower() in text.lower() for one in ("quokka", "zebra", *CODED))


def whole(route: str) -> bytes:
    return json.dumps(body_of(route, MARK)).encode()


WAYS: dict[str, Any] = {
    "sound": whole,
    "cut short": lambda route: whole(route)[:-8],
    "not UTF-8": lambda route: whole(route) + b"\xff",
    "twice": lambda route: whole(route) * 2,
    "a name twice": lambda route: b'{"%s": 1, "%s": 2}' % (MARK.encode(), MARK.encode()),
    "a text as every part": lambda route: json.dumps(dict.fromkeys(body_of(route, MARK), MARK)).encode(),
    "a text as a name": lambda route: json.dumps({**body_of(route, MARK), MARK: MARK}).encode(),
    "objects for texts": lambda route: json.dumps(marked(body_of(route, MARK), {MARK: MARK})).encode(),  # type: ignore[arg-type]
    "too long": lambda route: json.dumps(body_of(route, MARK * 40)).encode(),
    "a failing pack": lambda route: json.dumps(body_of(route, MARK + FAIL)).encode(),
    "no number": lambda route: json.dumps(body_of(route, MARK + NAN)).encode(),
    "a library's error": lambda route: json.dumps(body_of(route, MARK + BREAK)).encode(),
    "no template": lambda route: json.dumps({"query": [MARK], "messages": [MARK], "input": MARK}).encode(),
}
ASKED: dict[str, tuple[str, dict[str, str]]] = {
    "an option": (f"?{MARK}={MARK}", {}),
    "a preference": (f"?preference={MARK}:1", {}),
    "targets": (f"?targets={MARK}:1", {}),
    "a template": (f"?template={MARK}", {}),
    "no route": (f"/{MARK}", {}),
    "a key": ("", {"X-API-Key": MARK}),
    "a deadline": ("", {"X-Timeout-Ms": MARK}),
    "too late": ("", {"X-Timeout-Ms": "0.001"}),
    "an id": ("", {"X-Request-Id": MARK}),
    "an encoding": ("", {"Content-Encoding": MARK}),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("way", WAYS)
def test_no_body_is_logged_or_shown_in_an_error(keyed: Served, lines: io.StringIO, route: str, way: str) -> None:
    answer = keyed.client.post(route, content=WAYS[way](route))
    if answer.status_code != 200 or '"error"' in answer.text:
        assert not holds_mark(answer.text), answer.text
    wait_until(lambda: '"answered"' in lines.getvalue())
    assert not holds_mark(lines.getvalue()), lines.getvalue()


@pytest.mark.parametrize("route", ["/score", "/get_reward", "/rerank", "/score/stream"])
@pytest.mark.parametrize("way", ASKED)
def test_no_url_or_header_is_either(keyed: Served, lines: io.StringIO, route: str, way: str) -> None:
    suffix, headers = ASKED[way]
    answer = keyed.client.post(route + suffix, content=whole(route), headers=headers)
    if answer.status_code != 200:
        assert not holds_mark(answer.text), answer.text
    assert not any(holds_mark(value) for value in answer.headers.values())
    wait_until(lambda: '"answered"' in lines.getvalue())
    assert not holds_mark(lines.getvalue()), lines.getvalue()


def test_the_search_finds_what_it_looks_for(lines: io.StringIO) -> None:
    logging.getLogger("app").warning("read %s", MARK)
    assert holds_mark(lines.getvalue())
    assert all(holds_mark(one) for one in CODED)
