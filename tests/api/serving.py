"""A real server of the real application in a thread of this process, on a free port of 127.0.0.1."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from app.api.server import DrainingServer
from app.api.state import ServerState
from app.engine import Engine
from app.main import create_app
from app.settings import Settings, read_settings
from tests.api.fake_engine import FakeEngine

PATIENCE_SECONDS = 20.0


@dataclass
class Served:
    """A running server, its client and what stands behind it."""

    fake: FakeEngine
    server: DrainingServer
    state: ServerState
    port: int
    client: httpx.Client

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)

    def metric(self, name: str, **labels: str) -> float:
        assert self.state.model is not None
        return self.state.model.metrics.registry.get_sample_value(name, labels) or 0.0

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS) as connection:
            yield connection


@contextmanager
def serving(
    fake: FakeEngine | None = None, load: Callable[[Settings], Engine] | None = None, **settings: str
) -> Iterator[Served]:
    """Serve a fake engine until the block ends."""
    fake = fake or FakeEngine()
    flags = {"port": "0", "drain_delay_seconds": "0", "drain_timeout_seconds": "2", "max_items": "64"} | settings
    app = create_app(read_settings(flags), load or (lambda _: fake.engine()))
    chosen = read_settings(flags)
    state: ServerState = app.state.server
    server = DrainingServer(
        app,
        state,
        ("127.0.0.1", 0),
        drain_delay=chosen.drain_delay_seconds,
        drain_timeout=chosen.drain_timeout_seconds,
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client:
            if load is None:
                wait_until(lambda: state.model is not None)
            yield Served(fake, server, state, port, client)
    finally:
        fake.release.set()
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for a condition that must come true."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError("the condition never came true")
        time.sleep(0.005)
