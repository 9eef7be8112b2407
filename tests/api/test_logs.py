import json
import logging
import os
import select
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from app.api import logs
from app.api.logs import JsonFormatter, TextFormatter, WaitingLines, logging_to_stderr
from app.serving.record import RequestRecord, recording
from tests.api.serving import wait_until


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


class FullPipe:
    """Standard error as a pipe that is full until somebody reads."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(self.writing, b"x" * select.PIPE_BUF)
        os.set_blocking(self.writing, True)

    @contextmanager
    def read_to_its_end(self) -> Iterator[list[dict[str, Any]]]:
        """Read from here on; once the block ends, the lines are in the list."""
        lines: list[dict[str, Any]] = []
        with ThreadPoolExecutor() as pool, os.fdopen(self.reading, "rb") as pipe:
            content = pool.submit(pipe.read)
            yield lines
            os.close(self.writing)
            lines += map(json.loads, content.result().lstrip(b"x").splitlines())


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> FullPipe:
    pipe = FullPipe()
    monkeypatch.setattr(logs, "STDERR", pipe.writing)
    return pipe


def test_nobody_who_logs_waits_for_a_reader_and_no_line_is_lost(stderr: FullPipe) -> None:
    with ExitStack() as reading, logging_to_stderr("json", "info"):
        with recording(RequestRecord("run-7")):
            logging.getLogger("app.test").info("first")
        for number in range(100):
            logging.getLogger("app.test").info("line %d", number)
        lines = reading.enter_context(stderr.read_to_its_end())
    assert [line["message"] for line in lines] == ["first", *(f"line {number}" for number in range(100))]
    assert [line.get("request_id") for line in lines[:2]] == ["run-7", None], "a line is of the request that wrote it"


def test_lines_that_are_too_many_to_keep_are_counted_where_they_are_missing(
    stderr: FullPipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_WAITING_LINES", 10)
    log = logging.getLogger("app.test")
    with ExitStack() as reading, logging_to_stderr("json", "info"):
        (waiting,) = [one for one in logging.getLogger().handlers if isinstance(one, WaitingLines)]
        log.info("stuck")
        wait_until(waiting.queue.empty)
        for number in range(15):
            log.info("line %d", number)
        lines = reading.enter_context(stderr.read_to_its_end())
    assert [line["message"] for line in lines[:-1]] == ["stuck", *(f"line {number}" for number in range(10))]
    assert str(lines[-1]["message"]).startswith("5 log lines are missing here")
    assert lines[-1]["level"] == "warning"


def test_a_reader_that_stays_stuck_keeps_nobody(stderr: FullPipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LAST_LINES_SECONDS", 0.01)
    with logging_to_stderr("json", "info"):
        logging.getLogger("app.test").info("late")
    with stderr.read_to_its_end() as lines:
        pass
    assert [line["message"] for line in lines] == ["late"]


def test_what_a_block_set_up_ends_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, warnings.showwarning)
    with logging_to_stderr("text", "debug"):
        assert root.handlers != before[0]
    assert (root.handlers, root.level, warnings.showwarning) == before
    root.warning("after the block")
    assert capfd.readouterr().err == ""


def test_warnings_of_libraries_are_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), logging_to_stderr("json", "info"):
        warnings.simplefilter("always")
        warnings.warn("the library is old", stacklevel=1)
    line = json.loads(capfd.readouterr().err)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "the library is old" in line["message"]
