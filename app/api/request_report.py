"""What is told of a request when it is answered: a log line, and a Server-Timing header. Knows no route.

Neither holds any text of it: a route is one of the service's own or `other`, and the rest are numbers.
"""

import logging
from dataclasses import asdict, dataclass

from app.serving.record import RequestRecord

log = logging.getLogger(__name__)

QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked for every few seconds by machines: their lines would hide the others."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that has its answer; `status` is 499 where its caller left before."""

    method: str
    route: str
    status: int
    seconds: float
    record: RequestRecord

    def log(self) -> None:
        """Write the request's line."""
        level = logging.DEBUG if self.route in QUIET_ROUTES else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "answered", extra={"fields": self._fields()})

    def _fields(self) -> dict[str, object]:
        record = self.record
        fields: dict[str, object] = {
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "seconds": round(self.seconds, 6),
        }
        if record.items:
            fields |= {"items": record.items, **asdict(record.usage)}
        fields |= {f"{stage}_seconds": round(seconds, 6) for stage, seconds in record.stage_seconds.items()}
        return fields | ({"problem": record.problem} if record.problem else {})


def server_timing(record: RequestRecord, total_seconds: float) -> bytes:
    """Return the value of a Server-Timing header: the stages that were done and the time up to now, in milliseconds."""
    seconds = record.stage_seconds | {"total": total_seconds}
    return ", ".join(f"{name};dur={one * 1000:.3f}" for name, one in seconds.items()).encode("ascii")
