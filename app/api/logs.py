"""How log lines look: JSON for machines or text for people, each with the id of the request it belongs to."""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import orjson

from app.serving.record import current_record

LogFormat = Literal["json", "text"]
QUIET_LOGGERS = ("httpx", "httpcore", "urllib3", "filelock")


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


def configure_logs(log_format: LogFormat, level: str) -> None:
    """Send every log line of the process to stderr in this format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
