"""The engines that armoserve is measured beside give its scores, and one that does not ends the measurement."""

import asyncio
from pathlib import Path

import pytest

from app.text.tokenization import ConversationTokenizer, load_tokenizer
from benchmarks.peers.checkpoint import ClassifierSize, write_classifier
from benchmarks.peers.engines import Classifier, InProcess, OneByOne, PaddedBatches, Scored, padded_tokens
from benchmarks.peers.openrlhf_server import RewardModelProxy
from benchmarks.peers.report import summary
from benchmarks.peers.rounds import THIS_PROCESS, Timing, compare, cpu_seconds, difference
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
