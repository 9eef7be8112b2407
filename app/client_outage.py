"""What is said while the service gives no answer: once when that has lasted a while, once when it is over.

Said to the log, whose warnings a process that sets up no logging shows on stderr. Performs nothing and has no clock.
"""

import logging
import threading
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

SILENT_SECONDS = 2.0
"""An overload that passes sooner is everyday business; so is one in which other requests are answered."""


@dataclass(slots=True)
class Outage:
    """Whether the service is away, as all requests of a client see it together. Shared by threads."""

    service: str = "the service"
    _last_answer_at: float = float("-inf")
    _began_at: float | None = None
    """When what was announced began; None while nothing is."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fails(self, asked_at: float, now: float, reason: str, patience_seconds: float) -> None:
        """Note that a request has no answer yet; `asked_at` is when it was sent for the first time."""
        with self._lock:
            since = max(asked_at, self._last_answer_at)
            if self._began_at is not None or now - since < SILENT_SECONDS:
                return
            self._began_at = since
        log.warning("%s gives no answer (%s): waiting, for up to %.0f seconds", self.service, reason, patience_seconds)

    def ends(self, now: float) -> None:
        """Note that a request was answered."""
        with self._lock:
            began_at, self._began_at, self._last_answer_at = self._began_at, None, now
        if began_at is not None:
            log.warning("%s answers again, after %.0f seconds", self.service, now - began_at)
