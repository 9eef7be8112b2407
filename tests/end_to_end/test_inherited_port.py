"""A port that outlives the process, as systemd's sockets do: a restart is a wait, and nobody is refused or reset."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.settings import inherited_descriptors
from tests.end_to_end.processes import PATIENCE_SECONDS, REPOSITORY
from tests.end_to_end.test_doorstep import REQUEST

NUM_CALLERS, NUM_REQUESTS = 20, 400
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""What systemd does between fork and exec."""


@contextmanager
def server_at(port: socket.socket, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a server on a port that is open already; end it, whatever happens."""
    command = ["-m", "tests.end_to_end.serve_fake", "--drain-delay-seconds", "0"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", HAND_OVER, str(port.fileno()), *command],
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[port.fileno()],
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def rewarded(address: tuple[str, int]) -> bytes:
    """Ask once, without trying again; return the status line."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(REQUEST.replace(b"Host: x", b"Host: x\r\nConnection: close"))
    try:
        return (await reader.read()).partition(b"\r\n")[0]
    finally:
        writer.close()


async def restarted_in_the_middle(port: socket.socket, log: Path) -> list[bytes]:
    address, places = port.getsockname(), asyncio.Semaphore(NUM_CALLERS)
    answers = list[bytes]()

    async def sample() -> None:
        async with places:
            answers.append(await rewarded(address))

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
        with server_at(port, log) as first:
            for _ in range(NUM_REQUESTS):
                group.create_task(sample())
            while len(answers) < NUM_REQUESTS // 4:
                await asyncio.sleep(0.01)
            first.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(first.wait) == 0
        assert len(answers) < NUM_REQUESTS, "it was stopped in the middle"
        with server_at(port, log):
            while len(answers) < NUM_REQUESTS:
                await asyncio.sleep(0.01)
    return answers


def test_a_restart_behind_a_port_that_stays_open_fails_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as port:
        answers = asyncio.run(restarted_in_the_middle(port, tmp_path / "log"))
    assert answers == [b"HTTP/1.1 200 OK"] * NUM_REQUESTS
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_port_handed_to_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert not inherited_descriptors()
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert list(inherited_descriptors()) == [3]
