"""How log lines look: JSON for machines or text for people, each with the id of the request it belongs to.

And how they reach standard error: by a thread of their own, since that may be a pipe whose reader is slow or stuck,
which must hold up no request. So many lines wait for it; where more are lost, a line says how many.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Literal

import orjson

from app.serving.record import RequestRecord, current_record, recording

LogFormat = Literal["json", "text"]
QUIET_LOGGERS = ("httpx", "httpcore", "urllib3", "filelock")
STDERR = 2
MOST_WAITING_LINES = 10_000
"""A few megabytes: minutes of a reader that stands still, at a hundred requests a second."""
LAST_LINES_SECONDS = 1.0
"""For what waits at the end: a reader that is stuck does not keep the process."""

log = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = current_record()
        ids = {"request_id": request.request_id, "trace_id": request.trace_id, "span_id": request.span_id}
        line |= {name: value for name, value in ids.items() if value}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class TextFormatter(logging.Formatter):
    """One line for people, with the traceback below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        request_id = current_record().request_id
        return super().format(record) + (f" [request {request_id}]" if request_id else "")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())])


class WaitingLines(QueueHandler):
    """Lines on their way to standard error. Nobody who logs waits for them; `flush` does, for a while."""

    # Unlike the other queues, one that a signal's handler may use while it interrupts a use of it.
    queue: "SimpleQueue[object]"

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__(SimpleQueue())
        self.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
        self._num_lost = 0
        self._writer = LineWriter(self.queue)
        self._writer.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        # Once some are lost, more are until there is much room: or a slow reader would read of little but losses.
        if self.queue.qsize() >= MOST_WAITING_LINES // (2 if self._num_lost else 1):
            self._num_lost += 1
            return
        self._tell_lost()
        super().enqueue(record)

    def flush(self) -> None:
        """Wait until what was logged before is written, for `LAST_LINES_SECONDS` at most."""
        self._tell_lost()
        written = threading.Event()
        self.queue.put(written)
        written.wait(LAST_LINES_SECONDS)

    def close(self) -> None:
        self._writer.enqueue_sentinel()  # not `stop`, which waits for a stuck reader as well
        super().close()

    def _tell_lost(self) -> None:
        num_lost, self._num_lost = self._num_lost, 0
        if num_lost:
            words = "%d log lines are missing here: they were not read as fast as they were written"
            with recording(RequestRecord()):  # it is no request's
                super().enqueue(
                    self.prepare(log.makeRecord(log.name, logging.WARNING, "", 0, words, (num_lost,), None))
                )


class LineWriter(QueueListener):
    """The thread that writes lines; what else waits between them is told when it is its turn."""

    def __init__(self, lines: "SimpleQueue[object]") -> None:
        super().__init__(lines)
        # Not through `sys.stderr`: a write that is stuck there holds a lock that the end of the process waits for.
        self._stderr = open(STDERR, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115

    def handle(self, record: logging.LogRecord | threading.Event) -> None:
        if isinstance(record, threading.Event):
            record.set()
            return
        with suppress(OSError):  # whoever read it has gone
            self._stderr.write(f"{record.msg}\n")
            self._stderr.flush()


@contextmanager
def logging_to_stderr(log_format: LogFormat, level: str) -> Iterator[None]:
    """Send every log line of the process, and Python's warnings, to standard error in this format, for the block."""
    root, lines = logging.getLogger(), WaitingLines(log_format)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    level_before = root.level
    root.setLevel(level.upper())
    root.addHandler(lines)
    logging.captureWarnings(capture=True)
    try:
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.removeHandler(lines)
        root.setLevel(level_before)
        lines.flush()
        lines.close()
