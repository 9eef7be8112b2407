"""SIGTERM in the middle of streams, in a real process: every line that was read is answered, and the end is said."""

import itertools
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.fake_engine import HOLD
from tests.api.streaming import raw_stream
from tests.end_to_end.processes import ServerProcess, server_process, wait_until

FAKE = "tests.end_to_end.serve_fake"


def port_of(server: ServerProcess) -> int:
    return httpx.URL(server.url).port or 0


def queued_bulk(server: ServerProcess) -> float:
    lines = httpx.get(server.url + "/metrics", timeout=60).text.splitlines()
    found = [line for line in lines if line.startswith('armoserve_queued_tokens{priority="bulk"}')]
    return float(found[0].split()[-1]) if found else 0.0


def ended_by_sigterm(server: ServerProcess) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Send a held item and others behind it, then SIGTERM; return their answers, which must be all, and the last line.

    All are read before the signal: half a line is not.
    """
    server.wait_ready()
    with raw_stream(port_of(server)) as stream:
        ids = itertools.count()
        stream.send_item(id=next(ids), response=HOLD)

        def one_waits() -> bool:
            stream.send_item(id=next(ids))
            return queued_bulk(server) > 0

        wait_until(one_waits)
        time.sleep(0.2)  # what was sent meanwhile comes to wait, too
        waiting = queued_bulk(server)
        for _ in range(10):
            stream.send_item(id=next(ids))
        stream.send(b'{"id": "half a line')
        wait_until(lambda: queued_bulk(server) == waiting + 10 * 2)  # a letter and the end of each; one prompt
        server.process.send_signal(signal.SIGTERM)
        *answers, last = stream.lines()
        assert stream.is_closed()
    assert sorted(answer["id"] for answer in answers) == list(range(next(ids)))
    assert server.exit_code() == 0
    return answers, last


def test_what_was_read_is_finished_and_the_end_is_said(tmp_path: Path) -> None:
    flags = ["--drain-delay-seconds", "0.5", "--log-format", "text"]
    with server_process(FAKE, flags, tmp_path / "log") as server:
        answers, last = ended_by_sigterm(server)
    assert all("scores" in answer for answer in answers)
    assert last["error"]["type"] == "draining"
    assert last["error"]["message"] == f"the service is shutting down; lines after line {len(answers)} were not read"
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_what_does_not_finish_in_time_is_told_so_line_by_line(tmp_path: Path) -> None:
    flags = ["--drain-delay-seconds", "0.5", "--drain-timeout-seconds", "0.2", "--log-format", "text"]
    with server_process(FAKE, flags, tmp_path / "log") as server:
        answers, last = ended_by_sigterm(server)
    assert {answer["error"]["type"] for answer in answers} == {"draining"}
    assert last["error"]["type"] == "draining"
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(
    "upload", [["-T", "-"], ["-T", "."], ["--data-binary", "@-"], ["-H", "Expect: 100-continue", "-T", "-"]]
)
def test_curl_streams_a_file(tmp_path: Path, upload: list[str]) -> None:
    lines = [json.dumps({"id": number, "prompt": "a", "response": "b" * (number % 50)}) for number in range(2000)]
    with server_process(FAKE, [], tmp_path / "log") as server:
        server.wait_ready()
        command = ["curl", "-sSN", "--fail", "-X", "POST", *upload, server.url + "/score/stream"]
        ended = subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    assert sorted(answer["id"] for answer in answers) == list(range(2000))
