"""What both clients share: how to reach the service, how patiently, and what a call is made of. Performs nothing."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import httpx

from app.client_exchange import Exchange, OnRevision, Patience, Record, Reply, ask
from app.client_outage import Outage
from app.client_requests import Call, Fault, KeyedBy, Route, Targets, Weights, WireItem, chunks, wire_items
from app.client_results import ItemError, Result, Usage
from app.domain import Item, Truncation
from app.errors import BadAnswer

TargetsOption: TypeAlias = Targets | Sequence[Targets | None] | None
Plan: TypeAlias = tuple[list[WireItem | Fault], list[Exchange[list[Result]]]]


@dataclass(kw_only=True, eq=False)
class ServiceConnection:
    """How to reach the service, and how patiently; what both clients share.

    `base_url` of the service, without a route; at most `max_in_flight` requests at once, each with at most
    `max_items_per_request` items and 8 MiB; `timeout_seconds` for one try, `retry_seconds` from a request's first
    failure to `ServiceUnreachable`; after `deadline_seconds` in the service's queue a request is refused instead;
    `revision="raise"`: another model than the first one stops the caller, `expect_revision` any but that one.
    A request whose items share one prompt says so in the header X-Prompt-Key, by which a balancer can send it to the
    replica that remembers it; `prompt_key="first_turn"` tells prompts apart by their first user message. Thread-safe.
    """

    base_url: str = field(kw_only=False)
    api_key: str | None = field(default=None, repr=False)
    max_in_flight: int = 32
    max_items_per_request: int = 64
    retry_seconds: float = 600.0
    timeout_seconds: float = 120.0
    deadline_seconds: float | None = None
    revision: OnRevision = "ignore"
    expect_revision: str | None = None
    prompt_key: KeyedBy = "prompt"
    truncate: Truncation = "never"
    priority: Literal["interactive", "bulk"] = "interactive"
    transport: Any = field(default=None, repr=False)
    """What carries requests in place of the network: for tests."""

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError("base_url must begin with http:// or https://")
        if min(self.max_in_flight, self.max_items_per_request) < 1:
            raise ValueError("max_in_flight and max_items_per_request must be at least 1")
        if self.timeout_seconds <= 0 or self.retry_seconds < 0:
            raise ValueError("timeout_seconds must be above 0, and retry_seconds 0 or more")
        self._record = Record(self.revision, self.expect_revision)
        url = httpx.URL(self.base_url)  # named without what it may hold of a user's name and password
        self._patience = Patience(self.retry_seconds, outage=Outage(f"{url.scheme}://{url.netloc.decode()}"))

    @property
    def usage(self) -> Usage:
        """Tokens of all answers so far."""
        return self._record.usage

    @property
    def model_revision(self) -> str | None:
        """The revision of the model that answered first; None before any answer."""
        return self._record.revision

    def _http_options(self) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "User-Agent": "armoserve-client"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        if self.deadline_seconds is not None:
            headers["X-Timeout-Ms"] = f"{self.deadline_seconds * 1000:.0f}"
        limits = httpx.Limits(max_connections=self.max_in_flight, max_keepalive_connections=self.max_in_flight)
        options = {"base_url": self.base_url, "headers": headers, "timeout": self.timeout_seconds, "limits": limits}
        return options | ({"transport": self.transport} if self.transport is not None else {})

    def _plan(
        self, items: Sequence[Item], route: Route, options: dict[str, Any], targets: TargetsOption = None
    ) -> Plan:
        """Return the items as they are sent, and one exchange per request of them."""
        per_item = targets if isinstance(targets, Sequence) and targets != "prefix" else [targets] * len(items)
        wired = wire_items(items, per_item, self.prompt_key)
        given = options | {"truncate": self.truncate, "priority": self.priority}
        call = Call(route, {name: value for name, value in given.items() if value}, len(given.get("preferences") or ()))
        sendable = [item for item in wired if isinstance(item, WireItem)]
        requests = chunks(sendable, self.max_items_per_request)
        return wired, [ask(chunk, call, self._patience, self._record) for chunk in requests]


def directions(preferences: Sequence[Weights], composites: Mapping[str, Weights] | None) -> dict[str, Any]:
    return {
        "preferences": [dict(direction) for direction in preferences],
        "composites": {name: dict(weights) for name, weights in (composites or {}).items()},
    }


def in_order(wired: Sequence[WireItem | Fault], answered: Sequence[Sequence[Result]]) -> list[Result]:
    """Put the results of all requests beside the items that could not be sent."""
    results = (result for chunk in answered for result in chunk)
    return [ItemError(one.type, one.message) if isinstance(one, Fault) else next(results) for one in wired]


def trace_headers() -> dict[str, str]:
    """Return the trace context (W3C) of the current span; empty where this process does not trace.

    Only who has loaded OpenTelemetry can have a span: it is not loaded here.
    """
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        TraceContextTextMapPropagator().inject(headers)
    return headers


def reply_of(response: httpx.Response) -> Reply:
    return Reply(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.content
    )


def object_of(reply: Reply) -> dict[str, Any]:
    try:
        content = json.loads(reply.content)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise BadAnswer("the answer is not a JSON object")
    return content
