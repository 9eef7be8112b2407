"""Standard error as a pipe that nobody reads: requests are answered, the process ends, and no line is lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.end_to_end.processes import LISTENING, PATIENCE_SECONDS, REPOSITORY, ServerProcess, wait_until

GOOD = {"prompt": "Say something", "response": "aei? bcd"}
PIPE_BYTES = 64 * 1024
LINE_BYTES = 200
"""Fewer than a request's line has."""
NUM_REQUESTS = 2 * PIPE_BYTES // LINE_BYTES


@pytest.fixture
def unread() -> Iterator[ServerProcess]:
    """A server whose log is read until it listens, and no further."""
    command = [sys.executable, "-m", "tests.end_to_end.serve_fake", "--port", "0", "--drain-delay-seconds", "0"]
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # as services run
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, bufsize=0, env=buffered)
    assert process.stderr
    try:
        while not (found := LISTENING.search(process.stderr.readline().decode())):
            assert process.poll() is None
        yield ServerProcess(process, REPOSITORY, found[1])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def fill(server: ServerProcess) -> None:
    """Have more written to the log than the pipe holds."""
    with httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert [client.post("/score", json=GOOD).status_code for _ in range(NUM_REQUESTS)] == [200] * NUM_REQUESTS


def test_requests_are_answered_and_their_lines_come_once_they_are_read(unread: ServerProcess) -> None:
    fill(unread)
    assert unread.status("/livez") == 200
    log = unread.process.stderr
    assert log
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(log.read)
        unread.process.send_signal(signal.SIGTERM)
        assert unread.exit_code() == 0
        lines = reading.result().splitlines()
    answered = [line for line in map(json.loads, lines) if line["message"] == "answered"]
    assert [line["route"] for line in answered] == ["/score"] * NUM_REQUESTS
    assert all(len(line) >= LINE_BYTES for line in lines if b"answered" in line)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM]])
def test_the_process_ends_though_nobody_reads(unread: ServerProcess, signals: list[signal.Signals]) -> None:
    fill(unread)
    for one in signals:
        os.kill(unread.process.pid, one)
    assert unread.exit_code() in (0, 143)
