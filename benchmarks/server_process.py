"""A server of its own for a measurement, on a free port of 127.0.0.1, and how late its event loop was."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

START_SECONDS = 300.0
PROBE_SECONDS = 5.0
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""What systemd's socket activation does between fork and exec."""


def resident_megabytes(process_id: int) -> float:
    """Return the resident set of a process (Linux)."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


@dataclass
class WatchedServer:
    """Starts, stops, and is asked over connections made by hand, which cost the one who measures little.

    Its port stays open between two processes, as behind systemd's sockets, or else opens and closes with each.
    """

    folder: Path
    settings: Sequence[str] = ()
    keeps_port: bool = False
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port: int = self._listener.getsockname()[1]
        if not self.keeps_port:
            self._listener.close()

    async def start(self) -> None:
        """Start it, and return once it is ready."""
        kept = [self._listener.fileno()] if self.keeps_port else []
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, pass_fds=kept)  # noqa: S603
        give_up = time.monotonic() + START_SECONDS
        while not await self._is_ready():
            if time.monotonic() > give_up or self.process.poll() is not None:
                raise SystemExit((self.folder / "log").read_text(encoding="utf-8")[-2000:])
            await asyncio.sleep(0.1)

    def command(self) -> list[str]:
        """Return what starts it."""
        hand_over = ["-c", HAND_OVER, str(self._listener.fileno())] if self.keeps_port else []
        watched = ["-m", "benchmarks.watched_server", str(self.folder / "lags")]
        flags = ["--port", str(self.port), "--log-level", "warning", *self.settings]
        return [sys.executable, *hand_over, *watched, *flags]

    async def _is_ready(self) -> bool:
        try:
            return (await asyncio.wait_for(self.ask("GET", "/readyz"), PROBE_SECONDS))[0] == 200
        except OSError:
            return False

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, and return once it has ended."""
        if self.process is not None:
            self.process.send_signal(how)
            await asyncio.to_thread(self.process.wait)

    async def ask(self, method: str, path: str, content: bytes = b"") -> tuple[int, bytes]:
        """Ask over a new connection; return the status and the body.

        Raises:
            OSError: there was no whole answer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode() + content)
            await writer.drain()
            answer, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        fields = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:])
        if len(body) != int(fields.get(b"content-length", b"-1")):
            raise ConnectionResetError("the answer broke off")
        return int(answer.split(b" ", 2)[1]), body

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Post JSON, and read JSON."""
        status, content = await self.ask("POST", path, json.dumps(body).encode())
        return status, json.loads(content)

    def lags_ms(self, since: float, until: float) -> dict[str, float]:
        """Return how late the loop was between two monotonic times: the largest, and percentiles."""
        lags = self._rows_ms("lags", since, until)
        return {name: round(float(np.percentile(lags, q)), 2) for name, q in (("p50", 50), ("p99", 99), ("max", 100))}

    def collections_ms(self, since: float, until: float) -> float:
        """Return the longest garbage collection between two monotonic times."""
        return round(max(self._rows_ms("lags.collections", since, until), default=0.0), 2)

    def _rows_ms(self, name: str, since: float, until: float) -> list[float]:
        rows = [line.split() for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]
        return [1000 * float(row[1]) for row in rows if len(row) == 2 and since <= float(row[0]) <= until]
