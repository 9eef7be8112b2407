import json
import logging

import pytest

from app.api.logs import JsonFormatter, TextFormatter
from app.api.request_context import current_request_id


def record(message: str, *arguments: object, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("app.test", logging.WARNING, __file__, 1, message, arguments, info)  # type: ignore[arg-type]


def test_a_json_line_holds_what_happened() -> None:
    line = json.loads(JsonFormatter().format(record("%d packs\nfailed", 3)))
    assert line["message"] == "3 packs\nfailed"
    assert (line["level"], line["logger"]) == ("warning", "app.test")
    assert line["time"].endswith("+00:00")
    assert "request_id" not in line


def test_a_line_names_its_request() -> None:
    token = current_request_id.set("run-7")
    try:
        assert json.loads(JsonFormatter().format(record("x")))["request_id"] == "run-7"
        assert TextFormatter().format(record("x")).endswith("x [request run-7]")
    finally:
        current_request_id.reset(token)
    assert TextFormatter().format(record("x")).endswith("x")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_stays_with_its_line(formatter: logging.Formatter) -> None:
    with pytest.raises(ValueError, match="no") as caught:
        int("no")
    formatted = formatter.format(record("x", error=caught.value))
    assert "ValueError: invalid literal" in formatted
    if isinstance(formatter, JsonFormatter):
        assert "\n" not in formatted
