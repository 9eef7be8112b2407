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
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from app.api.http_protocol import BoundedProtocol
from app.api.state import ServerState
from app.errors import InvalidSetting

log = logging.getLogger(__name__)

BACKLOG = 2048
"""Trainers open a thousand connections at once."""
KEEP_ALIVE_SECONDS = 75
"""Longer than load balancers keep idle connections, so that it is not we who close under a request."""
ANSWERS_GO_OUT_SECONDS = 0.5
ABANDON_SECONDS = 1
"""After the drain timeout, for the answers to what was abandoned to be taken."""


class DrainingServer(uvicorn.Server):
    """uvicorn's server with our order of shutting down."""

    def __init__(
        self, app: FastAPI, state: ServerState, address: tuple[str, int], *, drain_delay: float, drain_timeout: float
    ) -> None:
        class Protocol(BoundedProtocol):
            closing = state.closing
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
        self._is_port_ours = True
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
        self._is_port_ours = not sockets
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
        await self._close_port()
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

    async def _close_port(self) -> None:
        """Close the port and let in whoever stands before it: the kernel has accepted them, and would reset them.

        Before a port that stays open they wait for the next process.
        """
        ports = [one for server in self.servers for one in server.sockets] if self._is_port_ours else []
        doorsteps = [socket.socket(fileno=os.dup(one.fileno())) for one in ports]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        protocol_class = cast(type[BoundedProtocol], self.config.http_protocol_class)
        protocol = partial(protocol_class, self.config, self.server_state, self.lifespan.state)
        late = [one for doorstep in doorsteps for one in _accepted_at_last(doorstep)]
        await asyncio.gather(*(loop.connect_accepted_socket(protocol, one) for one in late))

    async def _abandon_late(self) -> None:
        await asyncio.sleep(self._drain_timeout)
        log.warning("the drain timeout passed: what still waits is given up")
        if self._state.model is not None:
            await self._state.model.service.stop()
        for task in tuple(self.server_state.tasks):  # whose bodies are still coming in, say
            task.cancel()
        for connection in tuple(self.server_state.connections):
            cast(BoundedProtocol, connection).give_up_head()


def _accepted_at_last(listener: socket.socket) -> list[socket.socket]:
    """Accept all who have connected and close the listener, with as little as can be between the two."""
    accepted = []
    with listener, suppress(OSError):  # nobody is left, or no more files may be opened
        listener.settimeout(0)
        while True:
            accepted.append(listener.accept()[0])
    return accepted


def _allow_connections() -> None:
    """Allow as many open files as the system lets this process have: shells and services start with 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # no number is small enough for some systems that say there is no limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
