"""A backbone divided among two processes of torchrun answers as one process does, and ends when one of them fails."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from app.domain import Item, Message
from app.main import load_engine
from app.pack_builder import pack_of
from app.settings import read_settings
from tests.checkpoints import write_armorm, write_moslim_heads
from tests.end_to_end.processes import ServerProcess, server_process, wait_until

RESPONSES = [f"response {n}, of {'many ' * n}words" for n in range(5)]
PROMPTS = ["What is divided?", "What is divided, and among how many?"]
TORCHRUN = ["--standalone", "--nproc-per-node", "2", "-m", "app", "serve", "--device", "cpu"]
QUICK_END = ["--drain-delay-seconds", "0", "--drain-timeout-seconds", "1"]


def ranks_of(server: ServerProcess) -> dict[str, int]:
    """Return the process ids of torchrun's children by rank."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    environments = {int(child): Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children}
    named = {pid: [one for one in entries if one.startswith(b"RANK=")] for pid, entries in environments.items()}
    return {found[0].decode(): pid for pid, found in named.items() if found}


@contextmanager
def divided_server(weights: Path, log: Path) -> Iterator[tuple[ServerProcess, dict[str, int]]]:
    ranks: dict[str, int] = {}
    try:
        with server_process("torch.distributed.run", [*TORCHRUN, "--weights", str(weights), *QUICK_END], log) as server:
            ranks = ranks_of(server)
            server.wait_ready()
            yield server, ranks
    finally:
        for pid in ranks.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_processes_answer_as_one_and_end_together(tmp_path: Path) -> None:
    weights = write_armorm(tmp_path / "weights")
    write_moslim_heads(weights / "moslim.safetensors")
    engine = load_engine(read_settings({"weights": str(weights), "device": "cpu", "prefix_cache_bytes": "0"}))
    items = [Item((Message("user", prompt),), tuple(RESPONSES)) for prompt in PROMPTS]
    conversations = [one for item in items for one in engine.encode(item, "never").conversations]
    expected = engine.forward(pack_of(conversations))
    with divided_server(weights, tmp_path / "log") as (server, ranks):
        body = {"items": [{"prompt": prompt, "responses": RESPONSES} for prompt in PROMPTS]}
        for _ in range(2):
            answer = httpx.post(server.url + "/score", json=body, timeout=60).json()
            scores = [score for result in answer["results"] for score in result["scores"]]
            assert scores == pytest.approx(list(expected.scores_R), abs=1e-5)
            assert answer["model"]["revision"] == engine.info.revision
        os.kill(ranks["RANK=1"], signal.SIGKILL)
        assert server.exit_code() != 0
        wait_until(lambda: not Path(f"/proc/{ranks['RANK=0']}").exists())
