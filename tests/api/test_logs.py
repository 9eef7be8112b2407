import json
import logging

import pytest

from app.api.logs import JsonFormatter, TextFormatter
from app.serving.record import RequestRecord, recording


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
    with recording(RequestRecord("run-7")):
        assert json.loads(JsonFormatter().format(record("x")))["request_id"] == "run-7"
        assert TextFormatter().format(record("x")).endswith("x [request run-7]")
    assert TextFormatter().format(record("x")).endswith("x")


def test_fields_stand_beside_the_message() -> None:
    line = record("answered")
    line.fields = {"route": "/score", "items": 2}
    assert (
        json.loads(JsonFormatter().format(line)).items()
        >= {"message": "answered", "route": "/score", "items": 2}.items()
    )
    assert TextFormatter().format(line).endswith("app.test: answered route=/score items=2")


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_traceback_stays_with_its_line(formatter: logging.Formatter) -> None:
    with pytest.raises(ValueError, match="no") as caught:
        int("no")
    formatted = formatter.format(record("x", error=caught.value))
    assert "ValueError: invalid literal" in formatted
    if isinstance(formatter, JsonFormatter):
        assert "\n" not in formatted
