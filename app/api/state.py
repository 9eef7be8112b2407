"""What the routes share about the running server: its limits, the model once it is loaded, and whether it drains."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from app.domain import ModelInfo
from app.engine import Render
from app.errors import DeadlineExceeded, Draining, NotReady
from app.preferences import PreferenceDirection
from app.serving.metrics import Metrics
from app.serving.service import Encode, ScoringService
from app.text.turn_formats import TurnFormat

if TYPE_CHECKING:
    from app.api.tracing import Tracing

log = logging.getLogger(__name__)

Fatal = Callable[[Exception], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold, and how long it may wait."""

    max_body_bytes: int
    max_items: int
    stream_stall_seconds: float
    max_wait_seconds: float


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model, checked and ready to score."""

    info: ModelInfo
    service: ScoringService
    metrics: Metrics
    encode_rollout: Encode
    """How to tokenise what trainers send."""
    render: Render
    is_full: Callable[[], bool]
    """Whether a request would be refused now for what waits before it."""
    own_format: Callable[[], TurnFormat]
    """How to read what the model's own template rendered; found out when it is first asked for."""
    default_direction: PreferenceDirection | None = None
    """What gives weights without a scalar of their own one."""


class ServerState:
    """The one mutable object behind the routes: it goes from loading to serving to draining."""

    def __init__(self, limits: Limits, registry: CollectorRegistry, versions: Mapping[str, str]) -> None:
        self.limits = limits
        self.registry = registry
        self.versions = versions
        self.model: ServedModel | None = None
        self.is_settled = asyncio.Event()
        """Whether the model is there, or none will be any more: nobody need wait for it."""
        self.is_draining = False
        self.tracing: Tracing | None = None
        self.closing = asyncio.Event()
        """The port closes: what is inside should come to its end."""
        self.on_fatal: Fatal = _log_fatal

    def serve_model(self, model: ServedModel) -> None:
        """Let requests in to the model."""
        self.model = model
        self.is_settled.set()

    def close(self) -> None:
        """Tell those inside that the port closes."""
        self.closing.set()
        self.is_settled.set()

    def loaded_model(self) -> ServedModel:
        """Return the model.

        Raises:
            NotReady: it is still being loaded or checked.
        """
        if self.model is None:
            raise NotReady("the weights are still being loaded and checked")
        return self.model

    async def awaited_model(self, deadline: float | None, waits_until: float) -> ServedModel:
        """Return the model once it is there; both times are in monotonic seconds.

        Raises:
            NotReady: it is not there at `waits_until`.
            DeadlineExceeded: nor at the deadline, which is earlier.
            Draining: the port closes first.
        """
        last_chance = waits_until if deadline is None else min(deadline, waits_until)
        try:
            async with asyncio.timeout(last_chance - time.monotonic()):
                await self.is_settled.wait()
        except TimeoutError:
            if last_chance < waits_until:
                raise DeadlineExceeded("the deadline passed while the weights were being loaded and checked") from None
        if self.model is None and self.closing.is_set():
            raise Draining("the service is shutting down")
        return self.loaded_model()

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request; before the model is there nothing is counted."""
        if self.model is not None:
            self.model.metrics.requests.labels(route, str(status)).inc()
            self.model.metrics.request_seconds.labels(route).observe(seconds)


def _log_fatal(error: Exception) -> None:
    log.critical("the process should end: %s", error)
