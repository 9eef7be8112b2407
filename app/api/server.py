"""The HTTP server: uvicorn, with an order of shutting down that a load balancer can follow.

SIGTERM → `is_draining`, so /readyz fails → `drain_delay_seconds`, in which requests are still taken → stop accepting
→ finish what is inside within `drain_timeout_seconds`, then fail what still waits → exit 0. A second signal exits
at once.
"""

import asyncio
import logging
import math
import os
import resource
import signal
import socket
import time
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.state import ServerState
from app.errors import InvalidSetting

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Trainers open a thousand connections at once."""
KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep idle connections, so that it is not we who close under a request."""
LARGEST_HEAD_BYTES = 64 * 1024
ANSWERS_GO_OUT_SECONDS = 0.5
ABANDON_SECONDS = 1
"""After the drain timeout, for the answers to what was abandoned to be taken."""


class BoundedHeadProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with bounds that it has none of.

    On a request's line and headers; and on the time in which a caller neither takes any of what waits for it nor
    sends anything, which would keep its connection for ever.
    """

    standstill_seconds = math.inf
    head_bytes = 0
    reads_head = True
    is_heard = False
    unsent_bytes = 0
    watch: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self.is_heard = True
        if self.reads_head:
            self.head_bytes += len(data)
        super().data_received(data)
        if self.reads_head and self.head_bytes > LARGEST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request line and headers are too large.")

    def on_headers_complete(self) -> None:
        self.reads_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.reads_head = True
        self.head_bytes = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_caller()

    def resume_writing(self) -> None:
        self._watch_no_more()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch_no_more()
        super().connection_lost(exc)

    def _watch_caller(self) -> None:
        self.is_heard = False
        self.unsent_bytes = self.transport.get_write_buffer_size()
        self.watch = self.loop.call_later(self.standstill_seconds, self._give_up_at_standstill)

    def _watch_no_more(self) -> None:
        if self.watch is not None:
            self.watch.cancel()

    def _give_up_at_standstill(self) -> None:
        if self.is_heard or self.transport.get_write_buffer_size() < self.unsent_bytes:
            self._watch_caller()
        else:
            self.transport.abort()


class DrainingServer(uvicorn.Server):
    """uvicorn's server with our order of shutting down."""

    def __init__(
        self, app: FastAPI, state: ServerState, address: tuple[str, int], *, drain_delay: float, drain_timeout: float
    ) -> None:
        class Protocol(BoundedHeadProtocol):
            # A stream says that it stands still first, and its caller may still hear it.
            standstill_seconds = 2 * state.limits.stream_stall_seconds

        config = uvicorn.Config(
            app,
            *address,
            http=Protocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(drain_timeout) + ABANDON_SECONDS,
        )
        super().__init__(config)
        self.failure: Exception | None = None
        self._state = state
        self._drain_delay = drain_delay
        self._drain_timeout = drain_timeout
        self._accept_until: float | None = None
        state.on_fatal = self.fail

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; on a second signal exit at once. At a keyboard (SIGINT) nobody waits for balancers."""
        del frame
        if self._accept_until is not None:
            logging.shutdown()  # the last lines, which a stuck reader cannot hold up for long
            os._exit(128 + sig)
        self._state.is_draining = True
        self._accept_until = time.monotonic() + (0.0 if sig == signal.SIGINT else self._drain_delay)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        _allow_connections()
        try:
            await super().startup(sockets)
        except (SystemExit, UnicodeError) as ended:  # uvicorn logs what the system said, and wants to end with 3
            reason = getattr(ended.__context__, "strerror", None) or "no such address"
            raise InvalidSetting(
                f"port = {self.config.port} with host = {self.config.host!r} is not allowed: {reason}; "
                "allowed: a free port of an address of this machine"
            ) from ended

    async def on_tick(self, counter: int) -> bool:
        if self._accept_until is not None and time.monotonic() >= self._accept_until:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.close()
        abandoning = asyncio.create_task(self._abandon_late())
        await super().shutdown(sockets)
        abandoning.cancel()

    def fail(self, error: Exception) -> None:
        """End the process for an error that only a new one can mend, once the answers at hand have gone out."""
        if self.failure is None:
            self.failure = error
            self._state.is_draining = True
            self._accept_until = time.monotonic() + ANSWERS_GO_OUT_SECONDS

    async def _abandon_late(self) -> None:
        await asyncio.sleep(self._drain_timeout)
        log.warning("the drain timeout passed: what still waits is given up")
        if self._state.model is not None:
            await self._state.model.service.stop()
        for task in tuple(self.server_state.tasks):  # whose bodies are still coming in, say
            task.cancel()


def _allow_connections() -> None:
    """Allow as many open files as the system lets this process have: shells and services start with 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # no number is small enough for some systems that say there is no limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
