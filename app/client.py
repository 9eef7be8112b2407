"""Clients of the service, for whoever trains against it: `RewardClient` and `AsyncRewardClient`.

They wait through overload, restarts and broken connections, keep order, never send more than they were told to at
once, and believe no answer that does not fit what was asked. Importing them loads no torch and no web framework.
What is sent, judged and tried again is decided in `app.client_exchange`, for both alike; here it is performed.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, Self, TypeVar, cast

import httpx

from app.client_connection import (
    Plan,
    ServiceConnection,
    TargetsOption,
    directions,
    in_order,
    object_of,
    reply_of,
    trace_headers,
)
from app.client_exchange import Event, Exchange, Lost, Pause, Send, Step, deliver
from app.client_requests import Weights
from app.client_results import ItemError, MoslimResult, ObjectivesResult, ScoreResult, Usage
from app.domain import Item

__all__ = ["AsyncRewardClient", "ItemError", "MoslimResult", "ObjectivesResult", "RewardClient", "ScoreResult", "Usage"]

Outcome = TypeVar("Outcome")


class RewardClient(ServiceConnection):
    """Asks from threads, blocking. A context manager; or call `close`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._http = httpx.Client(**self._http_options())
        self._pool = ThreadPoolExecutor(self.max_in_flight, thread_name_prefix="armoserve-client")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; nothing can be asked afterwards."""
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    def score(
        self,
        items: Sequence[Item],
        preferences: Sequence[Weights] = (),
        composites: Mapping[str, Weights] | None = None,
    ) -> list[ScoreResult | ItemError]:
        """Score every response of every item, also under each of `preferences`; results in the order of the items.

        Raises:
            RequestRefused: the request is at fault; with the service's type, title and detail.
            BadAnswer: the answer does not hold what was asked for.
            RevisionChanged: another model answers than `expect_revision`, or than at first where `revision` is "raise".
            ServiceUnreachable: no answer within `retry_seconds` of a request's first failure.
        """
        return self._perform(self._plan(items, "/score", directions(preferences, composites)))

    def objectives(
        self,
        items: Sequence[Item],
        preference: Weights | None = None,
        composites: Mapping[str, Weights] | None = None,
    ) -> list[ObjectivesResult | ItemError]:
        """Explain the scores of every response, under `preference` where one is given. Raises as `score` does."""
        preferences = () if preference is None else (preference,)
        return self._perform(self._plan(items, "/objectives", directions(preferences, composites)))

    def moslim_classify(self, items: Sequence[Item], targets: TargetsOption = None) -> list[MoslimResult | ItemError]:
        """Classify every response; `targets` for all items, one per item, or "prefix". Raises as `score` does."""
        return self._perform(self._plan(items, "/moslim-classify", {}, targets))

    def info(self) -> dict[str, Any]:
        """Return what is served: model, objectives, composites, heads, limits. Raises as `score` does."""
        return object_of(self._drive(deliver(Send("GET", "/info"), self._patience), threading.Event()))

    def _perform(self, plan: Plan) -> list[Any]:
        wired, exchanges = plan
        stop = threading.Event()
        futures = [self._pool.submit(copy_context().run, self._drive, exchange, stop) for exchange in exchanges]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises what failed first, while the others may still be waiting
            return in_order(wired, [future.result() for future in futures])
        finally:
            stop.set()  # where one has failed, or the caller was interrupted, the others need not wait any longer
            for future in futures:
                future.cancel()

    def _drive(self, exchange: Exchange[Outcome], stop: threading.Event) -> Outcome:
        event: Event = None
        while True:
            try:
                step = exchange.send(event)
            except StopIteration as end:
                return cast(Outcome, end.value)
            event = self._take(step, stop)

    def _take(self, step: Step, stop: threading.Event) -> Event:
        if isinstance(step, Pause):
            if stop.wait(step.seconds):
                raise InterruptedError("another request of the same call has ended it")
            return None
        try:
            headers = trace_headers() | dict(step.headers)
            return reply_of(self._http.request(step.method, step.path, content=step.body, headers=headers))
        except httpx.TransportError as error:
            return Lost(type(error).__name__)


class AsyncRewardClient(ServiceConnection):
    """Asks from one event loop, awaited; an async context manager; or call `aclose`. Else as `RewardClient`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._http = httpx.AsyncClient(**self._http_options())
        self._slots = asyncio.Semaphore(self.max_in_flight)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; nothing can be asked afterwards."""
        await self._http.aclose()

    async def score(
        self,
        items: Sequence[Item],
        preferences: Sequence[Weights] = (),
        composites: Mapping[str, Weights] | None = None,
    ) -> list[ScoreResult | ItemError]:
        """Score every response of every item. As `RewardClient.score`."""
        return await self._perform(self._plan(items, "/score", directions(preferences, composites)))

    async def objectives(
        self,
        items: Sequence[Item],
        preference: Weights | None = None,
        composites: Mapping[str, Weights] | None = None,
    ) -> list[ObjectivesResult | ItemError]:
        """Explain the scores of every response. As `RewardClient.objectives`."""
        preferences = () if preference is None else (preference,)
        return await self._perform(self._plan(items, "/objectives", directions(preferences, composites)))

    async def moslim_classify(
        self, items: Sequence[Item], targets: TargetsOption = None
    ) -> list[MoslimResult | ItemError]:
        """Classify every response. As `RewardClient.moslim_classify`."""
        return await self._perform(self._plan(items, "/moslim-classify", {}, targets))

    async def info(self) -> dict[str, Any]:
        """Return what is served. As `RewardClient.info`."""
        return object_of(await self._drive(deliver(Send("GET", "/info"), self._patience)))

    async def _perform(self, plan: Plan) -> list[Any]:
        wired, exchanges = plan
        tasks = [asyncio.create_task(self._drive(exchange)) for exchange in exchanges]
        try:
            return in_order(wired, await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _drive(self, exchange: Exchange[Outcome]) -> Outcome:
        event: Event = None
        async with self._slots:
            while True:
                try:
                    step = exchange.send(event)
                except StopIteration as end:
                    return cast(Outcome, end.value)
                event = await self._take(step)

    async def _take(self, step: Step) -> Event:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            headers = trace_headers() | dict(step.headers)
            return reply_of(await self._http.request(step.method, step.path, content=step.body, headers=headers))
        except httpx.TransportError as error:
            return Lost(type(error).__name__)
