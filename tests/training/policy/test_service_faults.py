"""Real loops against a service that dies under them and comes back, and against one whose answers cannot be true."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import client_exchange, client_outage
from app.client import RewardClient
from tests.checkpoints import write_own_folder
from tests.end_to_end.processes import ServerProcess, run, server_process
from tests.training.policy.small_runs import LOOPS, steps_of, trained_folder, write_recipe
from tests.training.policy.wrong_service import WRONG, wrong_service
from training.policy import service
from training.policy.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of TRL, transformers among themselves
NUM_STEPS = 8
FIRST_WRONG = 4
SERVED = ("objective-0", "objective-4")
COUNTED = ("first", "second")
every_loop = pytest.mark.parametrize("loop", LOOPS)
READ_AS = {"dpa": tuple(WRONG), "ppo": tuple(WRONG), "online_dpo": ("too few results",), "rloo": ("too few results",)}
"""Loops leave it to the client to read answers: to DPA of one form, to the others of another; each has all kinds."""
WRONG_FOR = [(loop, kind) for loop in LOOPS for kind in READ_AS[loop]]
Log = list[dict[str, float]]


class KilledService:
    """A real service, which can be killed under a request and started again where it was."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._weights = folder, write_own_folder(folder / "weights")
        self._stack = ExitStack()
        self._starts = 0
        self.server = self._start(0)

    def _start(self, port: int) -> ServerProcess:
        self._starts += 1
        # A restart forgets prompts, and those that are recalled round otherwise in the last bit.
        arguments = ["serve", "--weights", str(self._weights), "--prefix-cache-bytes", "0"]
        log = self._folder / f"service_{self._starts}.log"
        return self._stack.enter_context(server_process("app", arguments, log, port))

    def freeze(self) -> None:
        """Let it answer nothing more, though it still takes requests."""
        os.kill(self.server.process.pid, signal.SIGSTOP)

    def kill_and_restart(self) -> None:
        time.sleep(0.5)  # the run sends its request, which is lost
        self.server.process.kill()
        self.server.exit_code()
        time.sleep(1.0)  # the run finds nobody there
        self.server = self._start(httpx.URL(self.server.url).port or 0)

    def close(self) -> None:
        self._stack.close()


class CallingClient(RewardClient):
    """Does something before its call of a number."""

    before: Callable[[int], None]
    num_calls = 0

    def score(self, *arguments: Any, **options: Any) -> Any:
        self._count()
        return super().score(*arguments, **options)

    def moslim_classify(self, *arguments: Any, **options: Any) -> Any:
        self._count()
        return super().moslim_classify(*arguments, **options)

    def _count(self) -> None:
        self.num_calls += 1
        type(self).before(self.num_calls)


@pytest.fixture(scope="module")
def killed_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KilledService]:
    started = KilledService(tmp_path_factory.mktemp("service"))
    try:
        started.server.wait_ready()
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def sound_logs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Log]:
    """The log of each loop with a service that is never wrong."""
    logs: dict[str, Log] = {}

    def log_of(loop: str) -> Log:
        if loop not in logs:
            with wrong_service() as sound:
                recipe = write_recipe(tmp_path_factory.mktemp(loop), sound.url, COUNTED, NUM_STEPS)
                assert main([loop, str(recipe)]) == 0
            logs[loop] = steps_of(recipe, loop)
        return logs[loop]

    return log_of


def assert_says_only(said: str, named: str) -> None:
    """Check that the last line is the error, and that no other line tells of it."""
    last = re.split(r"[\r\n]", said.removesuffix("\n"))[-1]
    assert re.fullmatch(rf"BadAnswer: {named}", last), said
    assert said.count("BadAnswer") == 1
    assert "Traceback" not in said


@every_loop
def test_a_killed_service_costs_a_run_time_and_nothing_else(
    loop: str,
    killed_service: KilledService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    killed_service.server.wait_ready()
    undisturbed, disturbed = (
        write_recipe(tmp_path / name, killed_service.server.url, SERVED, NUM_STEPS) for name in ("one", "other")
    )
    assert main([loop, str(undisturbed)]) == 0
    assert "gives no answer" not in capsys.readouterr().err
    monkeypatch.setattr(client_exchange, "LONGEST_PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(client_outage, "SILENT_SECONDS", 0.0)
    with ThreadPoolExecutor(1) as pool:
        restarts: list[Future[None]] = []

        def before(number: int) -> None:
            if number == FIRST_WRONG:
                killed_service.freeze()
                restarts.append(pool.submit(killed_service.kill_and_restart))

        monkeypatch.setattr(CallingClient, "before", staticmethod(before), raising=False)
        monkeypatch.setattr(service, "RewardClient", CallingClient)
        assert main([loop, str(disturbed)]) == 0
        assert [restart.result() for restart in restarts] == [None]
    said = capsys.readouterr().err
    assert said.count(f"{killed_service.server.url} gives no answer (") == 1
    assert said.count(f"{killed_service.server.url} answers again") == 1
    rows = steps_of(disturbed, loop)
    assert rows == steps_of(undisturbed, loop)
    assert len(rows) == NUM_STEPS
    assert {row["nothing_scored" if loop == "dpa" else "failed_rewards"] for row in rows} == {0.0}
    weights = [trained_folder(recipe, loop) / "model.safetensors" for recipe in (undisturbed, disturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(("loop", "kind"), WRONG_FOR)
def test_an_answer_that_cannot_be_true_stops_a_run(
    loop: str, kind: str, tmp_path: Path, sound_logs: Callable[[str], Log], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = sound_logs(loop)
    capsys.readouterr()
    wrong, named = WRONG[kind]
    with wrong_service(wrong, FIRST_WRONG) as untrue:
        recipe = write_recipe(tmp_path, untrue.url, COUNTED, NUM_STEPS)
        assert main([loop, str(recipe)]) == 1
        assert untrue.num_answers == FIRST_WRONG, "what is wrong is not asked for again"
    assert_says_only(capsys.readouterr().err, named)
    assert not trained_folder(recipe, loop).exists()
    # DPA's first answer is about the original responses that SteerLM learns from.
    num_steps = FIRST_WRONG - (2 if loop == "dpa" else 1)
    assert steps_of(recipe, loop) == expected[:num_steps]


@every_loop
def test_a_run_that_is_answered_wrongly_at_once_learns_nothing(
    loop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, named = WRONG["NaN"]
    with wrong_service(wrong, 1) as untrue:
        recipe = write_recipe(tmp_path, untrue.url, COUNTED, NUM_STEPS)
        assert main([loop, str(recipe)]) == 1
    assert_says_only(capsys.readouterr().err, named)
    assert steps_of(recipe, loop) == []
    work = recipe.parent / "work"
    assert [path.parent for path in work.rglob("*.safetensors")] == [work / "sft"]


def test_the_command_ends_with_the_error_and_its_status(tmp_path: Path) -> None:
    wrong, named = WRONG["NaN"]
    with wrong_service(wrong, FIRST_WRONG) as untrue:
        recipe = write_recipe(tmp_path, untrue.url, COUNTED, NUM_STEPS)
        ended = run("training.policy", "ppo", str(recipe), timeout=300.0)
    assert ended.returncode == 1
    assert_says_only(ended.stderr, named)
