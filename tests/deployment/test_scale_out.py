"""Replicas behind a real nginx: who gets which request, and whether one is lost while they are replaced."""

import asyncio
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import get_args

import httpx
import pytest

from app.client_requests import PROMPT_KEY_HEADER
from app.packing import Pack, PackOutput
from benchmarks.rolling_restart import roll_under_load, table
from benchmarks.scale_out.callers import Answer
from benchmarks.scale_out.endpoints import Cluster
from benchmarks.scale_out.nginx import Nginx, Routing
from benchmarks.scale_out.replicas import Replica, Tokens, tokens_of
from benchmarks.scale_out.report import Run
from benchmarks.scale_out.report import table as study_table
from benchmarks.scale_out.traffic import Shape, items_of, send
from tests.api.fake_engine import FakeEngine
from tests.api.serving import Served, serving, wait_until

BODY = {"prompt": "Name a colour.", "response": "Blue."}

pytestmark = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is None, reason="nginx is not installed"
)


class ReplicaHere(Replica):
    """A server in a thread of this process, around a fake engine whose revision and scores follow from its settings."""

    async def start(self) -> None:
        fake, (revision,) = FakeEngine(), self.settings
        info = replace(fake.info, revision=revision)

        def forward(pack: Pack) -> PackOutput:
            output = fake.forward(pack)
            assert output.scores_R is not None
            return replace(output, scores_R=output.scores_R + len(revision))

        engine = replace(fake.engine(), info=info, forward=forward)
        self.stack = ExitStack()
        self.served = self.stack.enter_context(serving(fake, lambda _: engine, drain_delay_seconds="0.6"))
        self.port = self.served.port
        await asyncio.to_thread(wait_until, lambda: self.served.state.model is not None)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.served.server.handle_exit(how, None)
        await asyncio.to_thread(wait_until, lambda: self.served.server.should_exit)
        await asyncio.to_thread(self.stack.close)


def replica_here(folder: Path, settings: Sequence[str]) -> Replica:
    return ReplicaHere(folder, settings)


@dataclass
class Behind:
    """Two replicas of this process, and the nginx before them."""

    nginx: Nginx
    replicas: tuple[Served, Served]

    def places(self, keys: Sequence[str | None]) -> list[str]:
        """Return which replica answers a request with each key; None for none."""
        headers = [{} if key is None else {PROMPT_KEY_HEADER: key} for key in keys]
        with httpx.Client(base_url=self.nginx.url) as client:
            answers = [client.post("/score", json=BODY, headers=one) for one in headers]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.headers["x-replica"] for answer in answers]


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with ExitStack() as stack:
        replicas = (stack.enter_context(serving()), stack.enter_context(serving()))
        nginx = Nginx(tmp_path_factory.mktemp("nginx"), "prompt key")
        stack.callback(nginx.stop)
        nginx.start([replica.port for replica in replicas])
        yield Behind(nginx, replicas)


@pytest.mark.parametrize("routing", get_args(Routing))
def test_nginx_takes_the_configuration(tmp_path: Path, routing: Routing) -> None:
    nginx = Nginx(tmp_path, routing)
    nginx.write([8000, 8001])
    said = nginx.check()
    assert said.returncode == 0, said.stderr
    with pytest.raises(ValueError, match="without a server"):
        nginx.write([])


def test_requests_with_one_key_go_to_one_replica_and_keys_spread(behind: Behind) -> None:
    assert len(set(behind.places(["0f3a"] * 12))) == 1
    assert len(set(behind.places([f"{number:016x}" for number in range(24)]))) == 2


def test_requests_without_a_key_go_anywhere(behind: Behind) -> None:
    assert len(set(behind.places([None] * 24))) == 2


def test_our_client_sends_every_request_about_a_prompt_to_one_replica(behind: Behind) -> None:
    number = count()
    shape = Shape(prompts=5, responses=3, epochs=2, prompts_per_step=5, prompt_tokens=8, response_tokens=4)
    items = items_of(shape, lambda lengths: [f"text {next(number)} " + "x" * length for length in lengths])
    assert len(items) == shape.requests
    assert len({item.prompt for item in items}) == shape.prompts
    before = [replica.fake.num_scored for replica in behind.replicas]
    sent = asyncio.run(send(behind.nginx.url, items, shape.in_flight))
    got = [replica.fake.num_scored - old for replica, old in zip(behind.replicas, before, strict=True)]
    assert sum(got) == len(sent.scores) == shape.requests
    of_one_prompt = shape.responses * shape.epochs
    assert [number % of_one_prompt for number in got] == [0, 0]


def test_a_replicas_tokens_are_read_off_its_metrics(behind: Behind, tmp_path: Path) -> None:
    replica = behind.replicas[0]
    asked = Replica(tmp_path)
    asked.port = replica.port
    before = asyncio.run(tokens_of(asked))
    usage = replica.post("/score", {"prompt": "ab", "responses": ["c", "def"]}).json()["usage"]
    gained = asyncio.run(tokens_of(asked))
    assert gained.computed - before.computed == usage["computed_tokens"]
    assert gained.logical - before.logical == usage["prompt_tokens"] + usage["response_tokens"]


def test_the_study_compares_shares_of_what_was_asked() -> None:
    run = Run(2, "prompt key", 10.0, Tokens(computed=40, shared=10, cached=50), 60, 5.0, 9.0, 2e-7)
    assert run.figures()["cached_share"] == 0.5
    assert run.figures()["busiest_over_mean"] == 1.2
    row = "| 2 | prompt key | 10.0 | 40 | 50% | 10% | 1.20 | 5 | 9 | 2e-07 |"
    assert study_table([run]).splitlines()[-1] == row


def test_replicas_are_replaced_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    async def roll() -> tuple[Cluster, list[dict[str, object]]]:
        replicas = [replica_here(tmp_path, ["old"]) for _ in range(2)]
        await asyncio.gather(*(replica.start() for replica in replicas))
        cluster = Cluster(tmp_path, Nginx(tmp_path, "prompt key"), replicas, replica_here)
        return cluster, await roll_under_load(cluster, {"none": None, "other weights": ["newer"]}, 0.5)

    cluster, (steady, replaced) = asyncio.run(roll())
    assert (steady["failed"], replaced["failed"]) == (0, 0), (steady, replaced)
    assert (steady["of_no_one_revision"], replaced["of_no_one_revision"]) == (0, 0)
    assert set(cluster.scores) == {"old", "newer"}
    assert isinstance(replaced["answers_by_revision"], dict)
    assert set(replaced["answers_by_revision"]) == {"old", "newer"}, "both answered while replicas were replaced"
    assert isinstance(steady["sent"], dict)
    assert set(steady["sent"]) == {"client", "trainer"}
    assert len(table([steady, replaced]).splitlines()) == 4


def test_an_answer_of_two_revisions_or_of_another_than_it_names_is_told(tmp_path: Path) -> None:
    scores = {"old": (1.0, 2.0), "new": (5.0, 6.0)}
    cluster = Cluster(tmp_path, Nginx(tmp_path, "prompt key"), [], replica_here, scores)

    def told(given: tuple[float, ...], revision: str = "") -> str | None:
        return cluster.revision_of(Answer("client", 0.0, 1.0, (0, 1), given, revision))

    assert told((1.0, 2.0)) == told((1.0, 2.0), "old") == "old"
    assert told((5.0, 6.0)) == "new"
    assert told((1.0, 6.0)) is None
    assert told((1.0, 2.0), "new") is None
