"""The engines that armoserve is measured beside give its scores, and one that does not ends the measurement."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from app.text.tokenization import ConversationTokenizer, load_tokenizer
from benchmarks.peers.checkpoint import ClassifierSize, write_classifier
from benchmarks.peers.engines import ELSEWHERE, Classifier, InProcess, OneByOne, PaddedBatches, Scored, padded_tokens
from benchmarks.peers.openrlhf_server import RewardModelProxy
from benchmarks.peers.report import detail, summary
from benchmarks.peers.rounds import THIS_PROCESS, Timing, compare, cpu_seconds, difference
from benchmarks.peers.running_servers import running_servers
from benchmarks.peers.service_cost import Rates, ratio_of
from benchmarks.peers.texts import Prose
from benchmarks.peers.workloads import Request, Workload, best_of_n, mixed_lengths, pairs, shared_system_prompt


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("peers") / "classifier", ClassifierSize(layers=2, width=64))


@pytest.fixture(scope="module")
def prose(weights: Path) -> Prose:
    return Prose(weights)


@pytest.fixture(scope="module")
def tokenizer(weights: Path) -> ConversationTokenizer:
    return load_tokenizer(weights, max_conversation_tokens=8192)


class Fixed:
    """Gives one score to all, or what it is told."""

    process_id = THIS_PROCESS

    def __init__(self, name: str, scores: list[float]) -> None:
        self.name = name
        self._scores = scores

    async def score(self, request: Request) -> Scored:
        return Scored(self._scores, request.num_tokens)


def test_every_engine_gives_the_same_scores(weights: Path, prose: Prose, tokenizer: ConversationTokenizer) -> None:
    classifier = Classifier(weights)
    peers = [OneByOne(classifier), PaddedBatches(classifier), InProcess(weights)]
    loop = RewardModelProxy(str(weights), 3)
    workloads = (best_of_n(prose, 4), pairs(prose, 2), shared_system_prompt(prose, 2, warm=True))
    requests = [workload.request(tokenizer) for workload in workloads]
    # All kinds together: of two texts alone, scores may by chance lie closer than float32 tells apart.
    expected, *others = ([one for r in requests for one in asyncio.run(peer.score(r)).scores] for peer in peers)
    assert len(set(expected)) == sum(len(request.texts) for request in requests)
    for scores in (*others, [one for request in requests for one in loop.rewards(list(request.texts))]):
        assert difference(Scored(scores, 0), Scored(expected, 0)) < 1e-4


def test_a_peer_with_other_scores_ends_the_measurement(prose: Prose, tokenizer: ConversationTokenizer) -> None:
    peers = [Fixed("one", [0.0, 1.0]), Fixed("other", [0.0, 1.001])]
    with pytest.raises(SystemExit, match=r"scores differ from those of one.*'other': 0\.00"):
        asyncio.run(compare(best_of_n(prose, 2), peers, tokenizer, rounds=1, baseline="one"))


def test_a_comparison_is_of_each_round(prose: Prose, tokenizer: ConversationTokenizer) -> None:
    peers = [Fixed("one", [0.0, 1.0]), Fixed("other", [0.0, 1.0])]
    rows = asyncio.run(compare(best_of_n(prose, 2), peers, tokenizer, rounds=2, baseline="one"))
    assert [(row.engine, row.baseline, row.token_ratio) for row in rows] == [("one", "one", 1.0), ("other", "one", 1.0)]
    assert rows[0].time_ratio == 1.0
    assert summary(rows).splitlines()[2] == "| one | 1.00 |"


def test_scores_that_are_missing_differ() -> None:
    assert difference(Scored([1.0], 0), Scored([1.0, 2.0], 0)) == float("inf")
    assert difference(Scored([1.0, 2.5], 0), Scored([1.0, 2.0], 0)) == pytest.approx(1.0)


def test_requests_have_new_texts_of_the_same_lengths(prose: Prose, tokenizer: ConversationTokenizer) -> None:
    workload = mixed_lengths(prose, 6)
    first, second = workload.request(tokenizer), workload.request(tokenizer)
    assert not set(first.texts) & set(second.texts)
    for one, other in zip(first.lengths, second.lengths, strict=True):
        assert one == pytest.approx(other, abs=8)


@pytest.mark.parametrize("warm", [True, False])
def test_a_system_prompt_comes_again_only_where_it_is_said_to(prose: Prose, warm: bool) -> None:
    workload: Workload = shared_system_prompt(prose, 2, warm=warm)
    first, second = workload.items(), workload.items()
    assert len({item.prompt[0] for item in first}) == 1
    assert (first[0].prompt[0] == second[0].prompt[0]) is warm
    assert first[0].prompt[1] != second[0].prompt[1]


def test_padding_counts() -> None:
    assert padded_tokens([3, 5, 2, 4], batch_size=2) == 2 * 5 + 2 * 4


def test_a_ratio_is_the_median_of_its_rounds() -> None:
    def round_of(seconds: float) -> Rates:
        return Rates(100, Timing(seconds, 2 * seconds, Scored([], 0)), 50, Timing(1.0, 1.0, Scored([], 0)))

    ratio = ratio_of("served", "engine", [round_of(seconds) for seconds in (1.0, 2.0, 4.0)], 0.7)
    assert (ratio.lowest, ratio.ratio, ratio.highest, ratio.wall_ratio) == (0.5, 1.0, 2.0, 0.5)


def test_a_process_that_computes_gathers_seconds() -> None:
    before = cpu_seconds(THIS_PROCESS)
    sum(range(10**6))
    assert cpu_seconds(THIS_PROCESS) > before


class FakeServer(BaseHTTPRequestHandler):
    """Answers as vLLM and infinity do, a text's score being its length; notes what it was sent."""

    sent: ClassVar[list[tuple[str, Any]]] = []
    capabilities: ClassVar[list[str]] = ["rerank"]

    def do_GET(self) -> None:
        model = {"id": "served", "capabilities": self.capabilities}
        self._answer(200, {"data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.sent.append((self.path, body))
        if self.path == "/rerank":
            lengths = enumerate(len(body["query"] + one) for one in body["documents"])
            results = [{"index": index, "relevance_score": float(length)} for index, length in lengths]
            self._answer(200, {"results": results[::-1]})
        elif "raw_scores" in body:
            self._answer(200, {"data": [[{"label": "LABEL_0", "score": float(len(one))}] for one in body["input"]]})
        elif len(body["input"]) == 1:
            self._answer(400, {"error": {"message": "the prompt is longer than max_model_len"}})
        else:
            rows = [{"index": index, "probs": [float(len(one))]} for index, one in enumerate(body["input"])]
            self._answer(200, {"data": rows[::-1]})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def fake_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(FakeServer, "sent", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


async def scored_by_both(url: str, request: Request) -> list[Scored]:
    async with running_servers(url, url) as servers:
        assert [server.name for server in servers] == ["vLLM's pooling server", "infinity"]
        return [await server.score(request) for server in servers]


@pytest.mark.parametrize("capability", ["rerank", "classify"])
def test_running_servers_get_the_rendered_texts(
    fake_url: str, prose: Prose, tokenizer: ConversationTokenizer, monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr(FakeServer, "capabilities", [capability])
    request = pairs(prose, 2).request(tokenizer)
    found = asyncio.run(scored_by_both(fake_url, request))
    lengths = [float(len(text)) for text in request.texts]
    assert [one.scores for one in found] == [lengths, lengths]
    path, body = FakeServer.sent[0]
    assert (path, body["model"], body["input"]) == ("/classify", "served", list(request.texts))
    assert (body["use_activation"], body["add_special_tokens"]) == (False, False)
    others = FakeServer.sent[1:]
    assert {path for path, _ in others} == {f"/{capability}"}
    assert all(body["raw_scores"] is True for _, body in others)
    if capability == "rerank":
        sent = [body["query"] + one for _, body in others for one in body["documents"]]
        assert sent == list(request.texts)
        assert all(
            body["query"].endswith(item.prompt[-1].content)
            for (_, body), item in zip(others, request.items, strict=True)
        )


def test_an_error_of_a_running_server_is_told(fake_url: str, prose: Prose, tokenizer: ConversationTokenizer) -> None:
    request = best_of_n(prose, 1).request(tokenizer)
    with pytest.raises(SystemExit, match=r"vLLM's pooling server: /classify answered 400: .*max_model_len"):
        asyncio.run(scored_by_both(fake_url, request))
    with pytest.raises(SystemExit, match=r"vLLM's pooling server at http://127.0.0.1:1 gives no answer to /v1/models"):
        asyncio.run(scored_by_both("http://127.0.0.1:1", request))


def test_a_running_server_with_other_scores_is_said_to_differ(prose: Prose, tokenizer: ConversationTokenizer) -> None:
    other = Fixed("other", [0.0, 2.0])
    other.process_id = ELSEWHERE
    peers = [Fixed("one", [0.0, 1.0]), other]
    rows = asyncio.run(compare(best_of_n(prose, 2), peers, tokenizer, rounds=1, baseline="one"))
    assert [row.by_wall_clock for row in rows] == [False, True]
    lines = detail(rows).splitlines()
    assert "| other, by the wall clock |" in lines[-1]
    assert lines[-1].endswith("**differing** |")
    assert "differing" not in lines[-2]
