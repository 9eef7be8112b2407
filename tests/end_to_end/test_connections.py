"""Two thousand trainers' connections at once, each new, against a real process with a shell's small limit of files."""

import asyncio
import json
import resource
from pathlib import Path

import httpx
import pytest

from tests.api.test_get_reward import PROMPT, QUERY
from tests.end_to_end.processes import server_process

NUM_CONNECTIONS = 2000
SMALL_LIMIT = 512
BODY = json.dumps({"query": [QUERY[0]], "prompts": [PROMPT], "labels": [None]}).encode()


async def posted(port: int, may_send: asyncio.Event, opened: list[int]) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    opened.append(1)
    if len(opened) == NUM_CONNECTIONS:
        may_send.set()
    await may_send.wait()  # so that all are open at once
    head = b"POST /get_reward HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(BODY) + BODY)
    try:
        return await reader.read()
    finally:
        writer.close()


async def flood(port: int) -> list[bytes]:
    may_send, opened = asyncio.Event(), list[int]()
    async with asyncio.timeout(120):
        return await asyncio.gather(*(posted(port, may_send, opened) for _ in range(NUM_CONNECTIONS)))


@pytest.mark.slow
def test_two_thousand_new_connections_at_once_are_all_answered(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NUM_CONNECTIONS + SMALL_LIMIT:
        pytest.skip("this machine allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (SMALL_LIMIT, hard))
    try:
        with server_process("tests.end_to_end.serve_fake", ["--log-level", "info"], tmp_path / "log") as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            server.wait_ready()
            answers = asyncio.run(flood(httpx.URL(server.url).port or 0))
            assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    rewards = {json.dumps(json.loads(answer.partition(b"\r\n\r\n")[2])["rewards"]) for answer in answers}
    assert len(rewards) == 1
